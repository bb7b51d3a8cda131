//! The build checks over `fixtures/dockerfiles/checks`: what each file violates, and what the fixes make of it. The
//! answers were compared with those of BuildKit's `frontend.lint`; where they differ on purpose, `docs/checks.md` says so.

use std::fmt::Write as _;
use std::path::Path;

use builder::graph::ImageSource;
use builder::oci::{ChainId, DiffId, Digest, ImageConfig, Platform};
use builder::parser::{Edit, Rule, parse};
use builder::planner::{
    BuildPlan, IgnoredPaths, ImageRequest, ImageResolver, PlanErrors, PlanOptions, Purpose, ResolveError, ResolvedBase,
    Warning, plan,
};

/// Knows busybox, and nothing else.
struct Busybox;

impl ImageResolver for Busybox {
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>> {
        let answer = |request: &ImageRequest| {
            if request.name.familiar() != "busybox:latest" {
                return Err("no such image".into());
            }
            let mut config = ImageConfig::scratch(Platform::new("linux", "amd64"));
            config.config.env = vec!["PATH=/bin".into()];
            config.rootfs.diff_ids = vec![DiffId(Digest::of(b"busybox"))];
            let source = ImageSource {
                chain: ChainId::of(&config.rootfs.diff_ids),
                reference: request.name.to_string().parse()?,
                config: Digest::of(b"busybox"),
                platform: request.platform.clone(),
            };
            Ok(ResolvedBase { source, config })
        };
        requests.iter().map(answer).collect()
    }
}

fn options(purpose: Purpose) -> PlanOptions {
    PlanOptions {
        build_platform: Platform::new("linux", "amd64"),
        purpose,
        ignored: IgnoredPaths::by(|path| path == "foo" || path.starts_with("foo/")),
        ..PlanOptions::default()
    }
}

fn planned(source: &str, purpose: Purpose) -> Result<BuildPlan, PlanErrors> {
    let dockerfile = parse(source.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}"));
    plan(&dockerfile, &options(purpose), &Busybox)
}

fn checked(source: &str) -> Vec<Warning> {
    match planned(source, Purpose::Check) {
        Ok(plan) => plan.warnings,
        Err(errors) => errors.warnings().to_vec(),
    }
}

/// The source with all fixes made, those left out that overlap an earlier one.
fn fixed(source: &str, warnings: &[Warning]) -> String {
    let mut edits: Vec<&Edit> = warnings
        .iter()
        .flat_map(|warning| &warning.fix)
        .flat_map(|fix| &fix.edits)
        .collect();
    edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut text = String::new();
    let mut at = 0;
    for edit in edits {
        if edit.span.start >= at {
            text.push_str(&source[at..edit.span.start]);
            text.push_str(&edit.replacement);
            at = edit.span.end;
        }
    }
    text + &source[at..]
}

#[test]
fn what_each_file_violates_and_how_it_is_fixed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dockerfiles/checks");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&directory);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let entries = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut count = 0;
    for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile")) {
        let source = std::fs::read_to_string(&path).unwrap();
        let warnings = checked(&source);
        let mut text = String::new();
        for warning in &warnings {
            let (first, last) = warning.lines.unwrap_or_default();
            let rule = warning.rule.map_or("-", Rule::name);
            writeln!(text, "{first}-{last} {rule}: {}", warning.message).unwrap();
        }
        let fixed = fixed(&source, &warnings);
        if fixed != source {
            write!(text, "--- fixed\n{fixed}").unwrap();
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        settings.bind(|| insta::assert_snapshot!(name, text));
        count += 1;
    }
    assert!(count > 20);
}

#[test]
fn a_fix_settles_what_it_is_for() {
    for source in [
        "FROM busybox AS Base\n",
        "FROM busybox as base\n",
        "FROM busybox\nrun true\n",
        "FROM busybox\nENV a b c\n",
        "FROM busybox\nMAINTAINER me <me@example.com>\n",
        "FROM busybox\nCMD python app.py\n",
        "FROM busybox\nEXPOSE 80/TCP\n",
        "FROM --platform=$TARGETPLATFORM busybox\n",
        "FROM busybox\nRUN true \\\n\n && true\n",
    ] {
        let warnings = checked(source);
        assert_eq!(warnings.len(), 1, "{source}: {warnings:?}");
        assert_eq!(checked(&fixed(source, &warnings)), [], "{source}");
    }
}

#[test]
fn commands_that_need_the_shell_are_left_to_a_person() {
    for line in [
        "cd /app && ./run",
        "exec app",
        "A=1 app",
        "echo $HOME",
        "app *.py",
        ". ./env",
    ] {
        let warnings = checked(&format!("FROM busybox\nCMD {line}\n"));
        assert_eq!(warnings.len(), 1, "{line}");
        assert_eq!(warnings[0].fix, None, "{line}");
    }
}

#[test]
fn names_are_looked_at_with_their_variables_replaced() {
    let warnings = checked("FROM busybox\nARG KIND=api\nENV ${KIND}_KEY=x ${KIND}_public_KEY=x\ncmd x\n");
    let messages: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "Do not use ARG or ENV instructions for sensitive data (ENV \"api_KEY\")",
            "Command 'cmd' should match the case of the command majority (uppercase)",
            "JSON arguments recommended for cmd to prevent unintended behavior related to OS signals",
        ]
    );
}

#[test]
fn a_base_image_that_is_not_known_fails_no_check() {
    let warnings = checked("FROM python:3\nRUN pip install x\nCOPY a $PYTHON_HOME/\nCMD app\nMAINTAINER me\n");
    let rules: Vec<Option<Rule>> = warnings.iter().map(|warning| warning.rule).collect();
    assert_eq!(rules, [None, Some(Rule::MaintainerDeprecated)]);
    assert!(warnings[0].message.contains("python:3"));
    assert!(planned("FROM python:3\n", Purpose::Build).is_err());
}

#[test]
fn a_build_looks_at_what_it_builds_and_a_check_at_all() {
    let source = "FROM busybox AS unused\nENV a b\nCMD x\nFROM busybox\n";
    assert_eq!(planned(source, Purpose::Build).unwrap().warnings, []);
    assert_eq!(checked(source).len(), 2);
}

#[test]
fn an_outline_tells_what_a_target_takes() {
    let source = "# BASE what to start from\nARG BASE=busybox\nARG SUFFIX=x\nARG FULL=${SUFFIX}y\nARG UNUSED=1\n\
        # first the first\nFROM $BASE AS first\nARG FULL\nARG TARGETARCH\nARG B A\n\
        RUN --mount=type=secret,id=s,required --mount=type=ssh --mount=type=cache,id=c,target=/c true\n\
        FROM busybox AS other\nARG OTHER\nFROM first\nARG LAST=1\n";
    let outline = planned(source, Purpose::Outline).unwrap().outline;
    let args: Vec<(&str, Option<&str>)> = outline
        .args
        .iter()
        .map(|arg| (arg.name.as_str(), arg.value.as_deref()))
        .collect();
    assert_eq!(
        args,
        [
            ("BASE", Some("busybox")),
            ("SUFFIX", Some("x")),
            ("FULL", Some("xy")),
            ("B", None),
            ("A", None),
            ("LAST", Some("1"))
        ]
    );
    assert_eq!(outline.args[0].description.as_deref(), Some("what to start from"));
    assert_eq!(outline.secrets[0].id, "s");
    assert!(outline.secrets[0].required);
    assert_eq!(outline.ssh[0].id, "default");
    assert_eq!(outline.caches[0].id, "c");
}
