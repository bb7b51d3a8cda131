//! Plans of whole Dockerfiles: what the graph, the configuration and the history come to, with images that a map
//! stands in for.

use std::cell::RefCell;
use std::collections::BTreeMap;

use builder::graph::{
    Access, CopyAction, Exec, ExtraHost, FileAction, HostAddress, ImageSource, MountKind, NetworkMode, Op,
    SecurityMode, Sharing, Source,
};
use builder::oci::{ChainId, DiffId, Digest, ImageConfig, Platform};
use builder::parser;
use builder::planner::{
    BuildPlan, Confinement, ImageName, ImageRequest, ImageResolver, NamedContext, NoCache, PlanErrors, PlanOptions,
    PlatformNames, Problem, ResolveError, ResolvedBase, plan,
};

/// Images by their short names, and the requests that were made.
#[derive(Default)]
struct Images {
    known: BTreeMap<String, ImageConfig>,
    asked: RefCell<Vec<Vec<String>>>,
}

impl Images {
    fn with(mut self, name: &str, change: impl FnOnce(&mut ImageConfig)) -> Self {
        let mut config = ImageConfig::scratch(Platform::new("linux", "amd64"));
        config.rootfs.diff_ids = vec![DiffId(Digest::of(name.as_bytes()))];
        change(&mut config);
        self.known.insert(name.to_owned(), config);
        self
    }

    fn rounds(&self) -> Vec<Vec<String>> {
        self.asked.borrow().clone()
    }
}

impl ImageResolver for Images {
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>> {
        let names = requests.iter().map(|request| request.name.familiar()).collect();
        self.asked.borrow_mut().push(names);
        let answer = |request: &ImageRequest| {
            let name = request.name.familiar();
            let short = name.strip_suffix(":latest").unwrap_or(&name);
            let config = self.known.get(short).cloned().ok_or("no such image")?;
            let source = ImageSource {
                chain: ChainId::of(&config.rootfs.diff_ids),
                reference: request.name.to_string().parse()?,
                config: Digest::of(short.as_bytes()),
                platform: request.platform.clone(),
            };
            Ok(ResolvedBase { source, config })
        };
        requests.iter().map(answer).collect()
    }
}

fn base_images() -> Images {
    Images::default()
        .with("python:3.9-slim", |config| {
            config.config.env = vec!["PATH=/usr/local/bin:/usr/bin".into(), "LANG=C.UTF-8".into()];
            config.config.cmd = Some(vec!["python3".into()]);
        })
        .with("debian", |config| config.config.cmd = Some(vec!["bash".into()]))
        .with("busybox", |_| ())
        .with("golang", |config| config.config.working_dir = "/go".into())
}

fn options() -> PlanOptions {
    PlanOptions {
        build_platform: Platform::new("linux", "amd64"),
        ..PlanOptions::default()
    }
}

fn plan_with(source: &str, options: &PlanOptions, images: &Images) -> Result<BuildPlan, PlanErrors> {
    let dockerfile = parser::parse(source.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}"));
    plan(&dockerfile, options, images)
}

fn planned(source: &str) -> BuildPlan {
    planned_with(source, &options())
}

fn planned_with(source: &str, options: &PlanOptions) -> BuildPlan {
    plan_with(source, options, &base_images()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// All errors, each as its text, the text of the source that it is about, and its hint.
fn errors(source: &str, options: &PlanOptions) -> Vec<String> {
    let errors = plan_with(source, options, &base_images()).expect_err("the plan has errors");
    let shown = |error: builder::planner::PlanError| {
        let place = error.span.map_or("-", |span| &source[span.range()]);
        let hint = error.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
        format!("{place}: {error}{hint}")
    };
    errors.into_iter().map(shown).collect()
}

/// The build checks that speak, and what they say.
fn warnings(source: &str) -> Vec<String> {
    let shown = |warning: &builder::planner::Warning| {
        let rule = warning.rule.map_or("-", |rule| rule.name());
        format!("{rule}: {}", warning.message)
    };
    planned(source).warnings.iter().map(shown).collect()
}

fn history(plan: &BuildPlan) -> Vec<String> {
    let shown = |entry: &builder::oci::History| {
        let layer = if entry.empty_layer { "" } else { "+ " };
        format!("{layer}{}", entry.created_by)
    };
    plan.config.history.iter().map(shown).collect()
}

/// The execs of a plan, in order.
fn execs(plan: &BuildPlan) -> Vec<Exec> {
    let exec = |op: &Op| match op {
        Op::Exec(exec) => Some(exec.clone()),
        _ => None,
    };
    plan.graph.iter().filter_map(|(_, vertex)| exec(&vertex.op)).collect()
}

fn copies(plan: &BuildPlan) -> Vec<CopyAction> {
    let mut copies = Vec::new();
    for (_, vertex) in plan.graph.iter() {
        if let Op::File(file) = &vertex.op {
            copies.extend(file.actions.iter().filter_map(|action| match action {
                FileAction::Copy(copy) => Some(copy.clone()),
                _ => None,
            }));
        }
    }
    copies
}

fn names(plan: &BuildPlan) -> Vec<String> {
    plan.graph
        .iter()
        .map(|(_, vertex)| vertex.label.name.to_string())
        .collect()
}

/// The value that a variable has in the last RUN.
fn seen_by_run(plan: &BuildPlan, name: &str) -> Option<String> {
    let env = execs(plan).pop().expect("a RUN").env;
    env.iter()
        .find_map(|entry| entry.strip_prefix(&format!("{name}=")).map(str::to_owned))
}

/// A plan as text.
fn render(plan: &BuildPlan) -> String {
    let mut lines = Vec::new();
    for (id, vertex) in plan.graph.iter() {
        let inputs: Vec<String> = vertex
            .inputs
            .iter()
            .map(|input| format!("#{}", input.index()))
            .collect();
        let place = vertex
            .label
            .lines
            .map_or_else(String::new, |(first, last)| format!(" @{first}-{last}"));
        lines.push(format!(
            "#{} {}{place} <- [{}]",
            id.index(),
            vertex.label.name,
            inputs.join(" ")
        ));
        match &vertex.op {
            Op::Source(Source::Image(image)) => lines.push(format!("     image {}", image.reference)),
            Op::Source(Source::Local(local)) => lines.push(format!("     context {}", local.name)),
            Op::Source(remote) => lines.push(format!("     {remote:?}")),
            Op::Exec(exec) => {
                lines.push(format!(
                    "     exec {:?} in {} as {:?}",
                    exec.args, exec.working_dir, exec.user
                ));
                lines.extend(exec.mounts.iter().map(|mount| format!("       {mount:?}")));
            }
            Op::File(file) => lines.extend(file.actions.iter().map(|action| format!("     {action:?}"))),
            Op::Merge(merge) => lines.push(format!("     {merge:?}")),
        }
    }
    lines.push(format!(
        "result {}",
        plan.result.map_or("-".into(), |id| format!("#{}", id.index()))
    ));
    lines.push(serde_json::to_string_pretty(&plan.config).expect("configurations have a JSON form"));
    lines.join("\n")
}

#[test]
fn a_small_application() {
    let plan = planned(
        "FROM python:3.9-slim\nWORKDIR /app\nCOPY app.py .\nRUN pip install \\\n  flask\nCMD [\"python\", \"app.py\"]\n",
    );
    insta::assert_snapshot!(render(&plan));
}

#[test]
fn a_build_in_stages() {
    let source = "ARG GO=golang\nFROM $GO AS build\nARG VERSION=1.0\nWORKDIR src\nCOPY --chown=1000:1000 --chmod=u=rwX,go=rX . .\n\
        RUN --mount=type=cache,target=/root/.cache,id=go-$VERSION go build -o /out/app\n\
        FROM debian AS unused\nRUN false\n\
        FROM scratch\nUSER app\nCOPY --from=build /out/app /bin/\nCOPY --from=busybox /bin/busybox /bin/busybox\n\
        COPY <<EOF /etc/motd\nversion\nEOF\nENTRYPOINT [\"/bin/app\"]\n";
    insta::assert_snapshot!(render(&planned(source)));
}

#[test]
fn each_stage_is_resolved_and_lowered_only_if_it_is_needed() {
    let source = "FROM nowhere AS broken\nRUN x\nFROM busybox AS first\nRUN a\nFROM debian\nCOPY --from=first /a /a\nCOPY --from=golang /b /b\n";
    let images = base_images();
    let plan = plan_with(source, &options(), &images).unwrap();
    assert_eq!(images.rounds().len(), 1, "all at once: {:?}", images.rounds());
    let mut asked = images.rounds().remove(0);
    asked.sort();
    assert_eq!(asked, ["busybox:latest", "debian:latest", "golang:latest"]);
    assert!(names(&plan).iter().all(|name| !name.contains("RUN x")));
}

#[test]
fn targets_are_found_in_any_case() {
    let source = "FROM busybox AS Base\nRUN one\nFROM base AS app\nRUN two\n";
    for (target, expected) in [("BASE", 1), ("app", 2)] {
        let options = PlanOptions {
            target: Some(target.into()),
            ..options()
        };
        assert_eq!(execs(&planned_with(source, &options)).len(), expected, "{target}");
    }
    let options = PlanOptions {
        target: Some("bsae".into()),
        ..options()
    };
    assert_eq!(
        errors(source, &options),
        ["-: there is no stage `bsae` to build (did you mean `base`?)"]
    );
}

#[test]
fn names_in_from_stand_for_stages_contexts_and_images() {
    let source = "FROM busybox AS a\nRUN one\nFROM debian AS b\nCOPY --from=0 /x /x\nCOPY --from=A /y /y\nCOPY --from=data /z /z\nCOPY --from=pinned /p /p\n";
    let mut options = options();
    options.named_contexts.insert("data".into(), NamedContext::Directory);
    options.named_contexts.insert(
        "pinned".into(),
        NamedContext::Image(ImageName::Reference("golang".parse().unwrap())),
    );
    let plan = planned_with(source, &options);
    let from = |index: usize| {
        let (_, vertex) = plan
            .graph
            .iter()
            .filter(|(_, vertex)| matches!(&vertex.op, Op::File(_)))
            .nth(index)
            .unwrap();
        plan.graph[vertex.inputs[1]].label.name.to_string()
    };
    assert_eq!(from(0), from(1));
    assert_eq!(from(0), "[a 2/2] RUN one");
    assert_eq!(from(2), "[context data] load from client");
    assert_eq!(from(3), "FROM docker.io/library/golang:latest");
}

#[test]
fn a_named_context_takes_the_place_of_a_stage_or_an_image() {
    let source = "FROM debian AS base\nRUN slow\nFROM base\nRUN fast\nFROM busybox:latest\nCOPY --from=1 / /\n";
    let mut options = options();
    options.named_contexts.insert(
        "base".into(),
        NamedContext::Image(ImageName::Reference("golang".parse().unwrap())),
    );
    options.named_contexts.insert("busybox".into(), NamedContext::Directory);
    let plan = planned_with(source, &options);
    let shown = names(&plan);
    assert!(shown.iter().any(|name| name.contains("golang")) && !shown.iter().any(|name| name.contains("slow")));
    assert!(shown.contains(&"[stage-2 1/2] FROM busybox".to_owned()), "{shown:?}");
    assert_eq!(history(&plan), ["+ COPY / / # buildkit", "+ COPY / / # buildkit"]);
}

#[test]
fn the_scope_of_arguments() {
    // What stands in the Dockerfile, --build-arg, and what RUN then sees of X.
    type Row = (
        &'static str,
        &'static [(&'static str, &'static str)],
        Option<&'static str>,
    );
    let table: [Row; 16] = [
        ("FROM busybox\nARG X=1\nRUN x", &[], Some("1")),
        ("FROM busybox\nARG X=1\nRUN x", &[("X", "2")], Some("2")),
        ("FROM busybox\nARG X\nRUN x", &[], None),
        ("FROM busybox\nARG X\nRUN x", &[("X", "2")], Some("2")),
        ("ARG X=g\nFROM busybox\nRUN x", &[], None),
        ("ARG X=g\nFROM busybox\nARG X\nRUN x", &[], Some("g")),
        ("ARG X=g\nFROM busybox\nARG X=s\nRUN x", &[], Some("s")),
        ("ARG X=g\nFROM busybox\nARG X\nRUN x", &[("X", "b")], Some("b")),
        ("FROM busybox\nARG X=a\nENV X=e\nRUN x", &[], Some("e")),
        ("FROM busybox\nENV X=e\nARG X=a\nRUN x", &[], Some("a")),
        ("FROM busybox AS b\nARG X=1\nFROM b\nRUN x", &[], Some("1")),
        ("FROM busybox AS b\nARG X=1\nFROM busybox\nRUN x", &[], None),
        ("FROM busybox\nARG A=1 X=$A\nRUN x", &[], Some("1")),
        ("FROM busybox\nENV A=old\nENV A=new X=$A\nRUN x", &[], Some("old")),
        (
            "FROM busybox\nARG TARGETARCH\nENV X=$TARGETARCH\nRUN x",
            &[],
            Some("amd64"),
        ),
        ("FROM busybox\nENV X=$TARGETARCH\nRUN x", &[], Some("")),
    ];
    for (source, build_args, expected) in table {
        let given = build_args
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = PlanOptions {
            build_args: given.collect(),
            ..options()
        };
        let plan = planned_with(source, &options);
        assert_eq!(seen_by_run(&plan, "X").as_deref(), expected, "{source} {build_args:?}");
    }
}

#[test]
fn global_arguments_name_base_images() {
    let source = "ARG NAME=python\nARG BASE=${NAME}:3.9-slim\nFROM ${BASE:-busybox}\n";
    assert!(names(&planned(source)).concat().contains("python:3.9-slim"));
    let options = PlanOptions {
        build_args: BTreeMap::from([("BASE".into(), "golang".into())]),
        ..options()
    };
    assert!(names(&planned_with(source, &options)).concat().contains("golang"));
    assert_eq!(
        errors("ARG BASE\nFROM $BSAE\n", &self::options()),
        ["$BSAE: the base image is empty: `$BSAE` has no value here (did you mean `BASE`?)"]
    );
}

#[test]
fn proxies_are_given_to_commands_and_kept_out_of_history_and_keys() {
    let build_args = BTreeMap::from([
        ("HTTP_PROXY".to_owned(), "http://p".to_owned()),
        ("no_proxy".into(), "x".into()),
    ]);
    let with = PlanOptions {
        build_args,
        ..options()
    };
    let source = "FROM busybox\nRUN x\n";
    let (plan, without) = (planned_with(source, &with), planned(source));
    let expected = ["HTTP_PROXY=http://p", "http_proxy=http://p", "NO_PROXY=x", "no_proxy=x"];
    assert_eq!(execs(&plan)[0].proxy_env, expected);
    assert_eq!(history(&plan), history(&without));
    assert_eq!(
        plan.graph[plan.result.unwrap()].digest,
        without.graph[without.result.unwrap()].digest
    );
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let declared = planned_with("FROM busybox\nARG HTTP_PROXY\nRUN x\n", &with);
    assert_eq!(
        history(&declared)[1],
        "+ RUN |1 HTTP_PROXY=http://p /bin/sh -c x # buildkit"
    );
}

#[test]
fn history_is_written_as_buildkit_writes_it() {
    let source = concat!(
        "FROM debian\nMAINTAINER Some Body\nARG A=1 B\nENV C=2 D=\"x y\"\nLABEL one=1 two=\"2 3\"\nEXPOSE 80 53/udp 8000-8001\n",
        "VOLUME /data /more\nWORKDIR /srv\nWORKDIR /\nUSER app:app\nSHELL [\"/bin/bash\", \"-ec\"]\nSTOPSIGNAL SIGINT\n",
        "HEALTHCHECK --interval=90s --retries=3 CMD curl -f localhost\nCOPY --chown=app --chmod=644 a b /srv/\nADD x.tar /x\n",
        "COPY <<ONE <<TWO /etc/\n1\nONE\n2\nTWO\nRUN make $A\nRUN [\"a\", \"b c\"]\nCMD run it\nENTRYPOINT [\"python\", \"a \\\"b\\\"\"]\nCMD [\"x\"]\n",
    );
    let plan = planned(source);
    insta::assert_snapshot!(history(&plan).join("\n"));
    assert!(
        plan.config
            .history
            .iter()
            .all(|entry| entry.comment == "buildkit.dockerfile.v0" && entry.created.is_none())
    );
}

#[test]
fn the_configuration_of_every_instruction() {
    let source = concat!(
        "FROM python:3.9-slim\nMAINTAINER Some Body\nENV LANG=de_DE A=b\nLABEL one=1\nEXPOSE 80\nVOLUME [\"/data\"]\nWORKDIR rel\n",
        "USER 1000\nSHELL [\"/bin/bash\", \"-c\"]\nSTOPSIGNAL 9\nHEALTHCHECK NONE\nONBUILD RUN echo $A\nENTRYPOINT serve\n",
    );
    let mut options = options();
    options.labels = BTreeMap::from([("one".into(), "over".into()), ("two".into(), "2".into())]);
    options.epoch = Some(1);
    let plan = planned_with(source, &options);
    assert_eq!(plan.epoch, Some(1));
    let mut config = plan.config;
    config.history.clear();
    insta::assert_snapshot!(serde_json::to_string_pretty(&config).unwrap());
}

#[test]
fn an_entry_point_resets_the_command_of_the_base_alone() {
    for (source, cmd) in [
        ("FROM python:3.9-slim\n", Some("python3")),
        ("FROM python:3.9-slim\nENTRYPOINT [\"e\"]\n", None),
        ("FROM python:3.9-slim\nCMD [\"c\"]\nENTRYPOINT [\"e\"]\n", Some("c")),
        ("FROM debian AS b\nCMD [\"c\"]\nFROM b\nENTRYPOINT [\"e\"]\n", None),
        ("FROM debian\nCMD []\n", None),
    ] {
        let config = planned(source).config.config;
        assert_eq!(config.cmd, cmd.map(|word| vec![word.to_owned()]), "{source}");
    }
}

#[test]
fn images_without_a_path_get_one() {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for source in ["FROM scratch\n", "FROM busybox\n"] {
        assert_eq!(planned(source).config.config.env, [PATH], "{source}");
    }
    assert_eq!(planned("FROM scratch\n").config.config.working_dir, "/");
    assert_eq!(planned("FROM scratch\n").result, None);
}

#[test]
fn the_epoch_comes_from_options_arguments_or_the_dockerfile() {
    let source = "ARG SOURCE_DATE_EPOCH=5\nFROM busybox\nARG SOURCE_DATE_EPOCH\nRUN x\n";
    let of = |build_arg: Option<&str>, epoch: Option<i64>| {
        let build_args = build_arg.map(|value| ("SOURCE_DATE_EPOCH".to_owned(), value.to_owned()));
        planned_with(
            source,
            &PlanOptions {
                build_args: build_args.into_iter().collect(),
                epoch,
                ..options()
            },
        )
    };
    assert_eq!(
        (
            of(None, None).epoch,
            of(None, Some(6)).epoch,
            of(Some("7"), Some(6)).epoch
        ),
        (Some(5), Some(6), Some(7))
    );
    assert_eq!(of(Some(""), Some(6)).epoch, None);
    let plan = of(Some("7"), None);
    assert_eq!(
        plan.config.created.as_ref().map(ToString::to_string).as_deref(),
        Some("1970-01-01T00:00:07Z")
    );
    assert!(
        plan.config
            .history
            .iter()
            .all(|entry| entry.created == plan.config.created)
    );
    assert_eq!(seen_by_run(&plan, "SOURCE_DATE_EPOCH").as_deref(), Some("7"));
    let bad = PlanOptions {
        build_args: BTreeMap::from([("SOURCE_DATE_EPOCH".into(), "soon".into())]),
        ..options()
    };
    let shown = errors(source, &bad);
    assert!(shown[0].contains("SOURCE_DATE_EPOCH is `soon`"), "{shown:?}");
}

#[test]
fn heredocs_of_run_in_their_three_forms() {
    let args = |source: &str| execs(&planned(source)).remove(0);
    let script = args("FROM busybox\nRUN <<EOF\nset -e\nmake $X\nEOF\n");
    assert_eq!(script.args, ["/bin/sh", "-c", "set -e\nmake $X\n"]);
    let program = args("FROM busybox\nRUN <<-'PY'\n\t#!/usr/bin/env python3\n\tprint(1)\nPY\n");
    assert_eq!(program.args, ["/bin/sh", "-c", "/dev/pipes/PY"]);
    assert_eq!(program.mounts[0].target, "/dev/pipes/PY");
    let content = b"#!/usr/bin/env python3\nprint(1)\n".to_vec();
    assert_eq!(program.mounts[0].kind, MountKind::File { content, mode: 0o755 });
    let shell = args("FROM busybox\nRUN cat <<A >a && cat <<B >b\n1\nA\n2\nB\n");
    assert_eq!(shell.args[2], "cat <<A >a && cat <<B >b\n1\nA\n2\nB");
    let shown = names(&planned("FROM busybox\nRUN <<EOF\n\nset -e\nmake\nEOF\n"));
    assert_eq!(shown[1], "[2/2] RUN <<EOF (set -e...)");
}

#[test]
fn mounts_of_every_type() {
    let source = concat!(
        "FROM busybox AS tools\nRUN t\nFROM debian\nARG ID=x\nWORKDIR /w\n",
        "RUN --mount=target=src,source=./sub/,rw --mount=type=bind,from=tools,target=/t --mount=from=golang,target=/go \\\n",
        "  --mount=type=cache,target=rel/../cache --mount=type=cache,id=$ID,target=/c,sharing=locked,uid=5,from=tools,source=/seed \\\n",
        "  --mount=type=tmpfs,target=/tmp,size=1m --mount=type=secret,id=token --mount=type=secret,id=other,env=OTHER \\\n",
        "  --mount=type=ssh --mount=type=ssh,id=b,required make\n",
    );
    let build_args = BTreeMap::from([("BUILDKIT_CACHE_MOUNT_NS".to_owned(), "ns".to_owned())]);
    let plan = planned_with(
        source,
        &PlanOptions {
            build_args,
            ..options()
        },
    );
    let exec = execs(&plan).pop().unwrap();
    assert!(exec.env.contains(&"SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0".to_owned()));
    let MountKind::Bind { ref source, access, .. } = exec.mounts[0].kind else {
        panic!("{:?}", exec.mounts[0])
    };
    assert_eq!(
        (exec.mounts[0].target.as_str(), source.as_str(), access),
        ("/w/src", "/sub", Access::ReadWrite)
    );
    let MountKind::Cache(cache) = &exec.mounts[4].kind else {
        panic!("{:?}", exec.mounts[4])
    };
    assert_eq!(
        (cache.id.as_str(), cache.sharing, cache.uid, cache.mode),
        ("ns/x", Sharing::Locked, Some(5), 0o755)
    );
    assert!(cache.input.is_some());
    let targets: Vec<&str> = exec.mounts.iter().map(|mount| mount.target.as_str()).collect();
    let expected = [
        "/w/src",
        "/t",
        "/go",
        "/w/cache",
        "/c",
        "/tmp",
        "/run/secrets/token",
        "",
        "/run/buildkit/ssh_agent.0",
        "/run/buildkit/ssh_agent.1",
    ];
    assert_eq!(targets, expected);
    for (source, problem) in [
        (
            "FROM busybox AS first\nRUN --mount=target=/ x\n",
            "`/` cannot be the target of a mount",
        ),
        (
            "FROM busybox AS first\nRUN --mount=from=later,target=/x x\nFROM busybox AS later\n",
            "stage `later` is used before it is defined (move its FROM above this one)",
        ),
        (
            "FROM busybox AS first\nARG M=9\nRUN --mount=type=cache,target=/x,mode=$M x\n",
            "mode=$M: `9` cannot be the mode of a mount (give an octal number, such as 0755)",
        ),
        (
            "FROM busybox AS first\nRUN --mount=type=cache,target=/x,form=y x\n",
            "form=y: `form` is no option of --mount (did you mean `from`?)",
        ),
        (
            "FROM busybox AS first\nRUN --mount=type=cahce,target=/x x\n",
            "type=cahce: `cahce` is no type of mount (did you mean `cache`?)",
        ),
        (
            "FROM busybox AS first\nRUN --mount=target x\n",
            "target: `target` in --mount has no value (write `target=…`)",
        ),
        (
            "FROM busybox AS first\nRUN --mount=type=tmpfs,target=/x,uid=4 x\n",
            "uid=4: a mount of type tmpfs has no `uid` (leave out `uid`, or is another `type` meant?)",
        ),
        (
            "FROM busybox AS first\nRUN --mount=type=cache,target=/x,sharing=lokced x\n",
            "sharing=lokced: `lokced` is no way to share a cache (did you mean `locked`?)",
        ),
    ] {
        let target = Some("first".to_owned());
        let shown = errors(source, &PlanOptions { target, ..options() });
        assert!(shown.len() == 1 && shown[0].contains(problem), "{shown:?}");
    }
}

#[test]
fn commands_have_a_network_hosts_a_user_and_a_shell() {
    let source = "FROM busybox\nUSER app\nSHELL [\"/bin/ash\", \"-ec\"]\nRUN a\nRUN --network=none b\nRUN --security=insecure [\"c\"]\n";
    let extra_hosts = vec![ExtraHost {
        name: "db".into(),
        address: HostAddress::Of("10.0.0.1".parse().unwrap()),
    }];
    let options = PlanOptions {
        network: NetworkMode::Host,
        extra_hosts: extra_hosts.clone(),
        hostname: Some("h".into()),
        confinement: Confinement::Optional,
        ..options()
    };
    let execs = execs(&planned_with(source, &options));
    let networks: Vec<NetworkMode> = execs.iter().map(|exec| exec.network).collect();
    assert_eq!(networks, [NetworkMode::Host, NetworkMode::None, NetworkMode::Host]);
    assert_eq!(execs[0].args, ["/bin/ash", "-ec", "a"]);
    assert_eq!(
        (execs[0].user.as_str(), execs[0].hostname.as_deref()),
        ("app", Some("h"))
    );
    assert_eq!(
        (&execs[2].args[..], execs[2].security),
        (&["c".to_owned()][..], SecurityMode::Insecure)
    );
    assert_eq!(execs[0].extra_hosts, extra_hosts);
    let shown = errors(source, &self::options());
    assert!(
        shown[0].contains("allow it with --allow security.insecure"),
        "{shown:?}"
    );
}

#[test]
fn sources_and_destinations_of_copy() {
    let source = "FROM busybox\nWORKDIR /app\nCOPY ../../a ./b/ .\nCOPY x y\nCOPY --parents --exclude=*.md a/./b/*.txt /d/\nADD --unpack=false t.tar /t/\nADD t.tar /\n";
    let copies = copies(&planned(source));
    let shown: Vec<(Vec<String>, String)> = copies
        .iter()
        .map(|copy| (copy.sources.clone(), copy.destination.clone()))
        .collect();
    let expected = [
        (vec!["/a", "/b"], "/app/"),
        (vec!["/x"], "/app/y"),
        (vec!["/a/./b/*.txt"], "/d/"),
        (vec!["/t.tar"], "/t/"),
        (vec!["/t.tar"], "/"),
    ];
    let expected = expected.map(|(sources, destination)| {
        (
            sources.into_iter().map(str::to_owned).collect::<Vec<_>>(),
            destination.to_owned(),
        )
    });
    assert_eq!(shown, expected);
    assert!(copies[2].parents && copies[2].exclude == ["*.md"]);
    let unpack: Vec<_> = copies[3..].iter().map(|copy| format!("{:?}", copy.unpack)).collect();
    assert_eq!(unpack, ["Never", "Archives"]);
}

#[test]
fn triggers_fire_in_the_child_and_are_gone() {
    let images = base_images().with("trigger", |config| {
        config.config.on_build = vec!["COPY --from=golang /x /x".into(), "RUN <<EOF\necho $A\nEOF\n".into()];
    });
    let plan = plan_with("FROM trigger\nRUN own\n", &options(), &images).unwrap();
    assert_eq!(images.rounds(), [vec!["trigger:latest"], vec!["golang:latest"]]);
    assert_eq!(
        history(&plan),
        [
            "+ COPY /x /x # buildkit",
            "+ RUN /bin/sh -c echo $A\n # buildkit",
            "+ RUN /bin/sh -c own # buildkit"
        ]
    );
    assert!(plan.config.config.on_build.is_empty());
    let shown = names(&plan);
    assert!(
        shown.contains(&"[2/4] ONBUILD COPY --from=golang /x /x".to_owned()),
        "{shown:?}"
    );

    let source = "FROM busybox AS base\nONBUILD RUN fired\nFROM base AS child\nRUN child\nFROM child\nRUN grandchild\n";
    let plan = planned(source);
    let commands: Vec<String> = execs(&plan).into_iter().map(|exec| exec.args[2].clone()).collect();
    assert_eq!(commands, ["fired", "child", "grandchild"]);

    let images = base_images().with("bad", |config| config.config.on_build = vec!["FROM x".into()]);
    let errors = plan_with("FROM bad\n", &options(), &images).unwrap_err();
    let error = errors.iter().next().unwrap();
    assert!(
        matches!(&error.problem, Problem::Trigger { trigger, .. } if trigger == "FROM x"),
        "{error:?}"
    );
}

#[test]
fn what_is_copied_from_may_be_named_by_variables() {
    let from = |source: &str, build_args: &[(&str, &str)]| {
        let build_args = build_args.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let options = PlanOptions {
            build_args: build_args.collect(),
            ..options()
        };
        let images = base_images();
        plan_with(source, &options, &images).unwrap_or_else(|errors| panic!("{errors}"));
        images.rounds().concat()
    };
    let source = "ARG V=3.9\nFROM busybox AS a\nFROM debian\nARG V NAME=golang\nENV W=$V-slim\nCOPY --from=${NAME} /x /x\n\
        RUN --mount=from=python:$W,target=/p x\n";
    assert_eq!(from(source, &[]), ["debian:latest", "golang:latest", "python:3.9-slim"]);
    assert_eq!(
        from(source, &[("NAME", "A")]),
        ["debian:latest", "python:3.9-slim", "busybox:latest"],
        "a build argument names a stage, in any case"
    );
    assert_eq!(
        from(
            "FROM golang\nFROM busybox\nARG STAGE=0\nCOPY --from=\"$STAGE\" /x /x\n",
            &[]
        ),
        ["busybox:latest", "golang:latest"],
        "a stage by its index"
    );
    let below = "FROM busybox AS base\nARG X=golang\nENV Y=$X\nFROM base\nCOPY --from=$Y /x /x\nARG Y=debian\n";
    assert_eq!(
        from(below, &[("Y", "debian")]),
        ["golang:latest", "busybox:latest"],
        "variables of the stage below count, those that come later do not"
    );
    let triggers = base_images().with("trigger", |config| {
        config.config.env = vec!["B=debian".into()];
        config.config.on_build = vec!["ARG A=golang".into(), "COPY --from=$A /x /x".into()];
    });
    plan_with("FROM trigger\n", &options(), &triggers).unwrap();
    assert_eq!(triggers.rounds().concat(), ["trigger:latest", "golang:latest"]);

    for (source, expected) in [
        (
            "FROM busybox\nARG STAGE=x\nCOPY --from=$STAEG /x /x\n",
            "$STAEG: --from is empty: `$STAEG` has no value here (did you mean `STAGE`?)",
        ),
        (
            "FROM busybox\nRUN --mount=from=$PATH,target=/x x\n",
            "from=$PATH,target=/x: `from` of a mount is empty: `$PATH` has no value here (declare it above with ARG or ENV: \
             what the base image sets does not count here)",
        ),
        (
            "FROM busybox\nCOPY --from=${X?unknown} /x /x\n",
            "${X?unknown}: X: unknown",
        ),
    ] {
        assert_eq!(errors(source, &options()), [expected]);
    }
}

#[test]
fn no_cache_marks_the_steps_of_all_or_of_named_stages() {
    let source = "FROM busybox AS a\nRUN one\nFROM busybox AS b\nCOPY --from=a / /\nRUN two\n";
    let ignored = |no_cache| {
        let plan = planned_with(source, &PlanOptions { no_cache, ..options() });
        plan.graph
            .iter()
            .filter(|(_, vertex)| vertex.label.ignore_cache)
            .count()
    };
    let counts = (
        ignored(NoCache::Never),
        ignored(NoCache::All),
        ignored(NoCache::Stages(vec!["A".into()])),
    );
    assert_eq!(counts, (0, 3, 1));
}

#[test]
fn base_images_named_by_variables_without_a_value() {
    for (source, expected) in [
        (
            "ARG BASE\nFROM $BASE\n",
            "$BASE: the base image is empty: `$BASE` has no value here \
             (give it a default, `ARG NAME=value`, or a value with --build-arg)",
        ),
        (
            "ARG TAG=1\nFROM busybox:$TGA\n",
            "busybox:$TGA: `busybox:` is neither a stage nor the name of an image (`$TGA` has no value here: \
             did you mean `$TAG`?)",
        ),
        (
            "FROM busybox AS a\nARG OTHER=1\nFROM busybox:$OTHER\n",
            "busybox:$OTHER: `busybox:` is neither a stage nor the name of an image (`$OTHER` has no value here: FROM sees \
             only ARGs above the first FROM, and needs a default there or a --build-arg)",
        ),
    ] {
        assert_eq!(errors(source, &options()), [expected]);
    }
    let target = Some("final".to_owned());
    assert_eq!(
        errors("FROM busybox\n", &PlanOptions { target, ..options() }),
        [
            "-: there is no stage `final` to build (no stage has a name: give one with `FROM … AS name`, or leave out --target)"
        ]
    );
}

#[test]
fn mounts_of_stages_that_are_not_built_are_not_looked_at() {
    planned("FROM busybox AS unused\nRUN --mount=type=nonsense,form=$X true\nFROM busybox\n");
}

#[test]
fn several_errors_are_told_at_once_each_at_its_place() {
    let source = "FROM busybox AS build\nCOPY --from=biuld/ /x /y\nCOPY --from=9 /x /y\nCOPY --from=build / /\nCOPY --chmod=999 a b\n\
        STOPSIGNAL NOPE\nEXPOSE 99999\nADD https://host/x /x\nADD git@host:x.git /x\nCOPY https://host/x /x\nENV X=${Y?gone}\n";
    insta::assert_snapshot!(errors(source, &options()).join("\n"));
}

#[test]
fn a_stage_that_comes_later_is_an_image_and_the_hint_says_so() {
    let source = "FROM later AS first\nFROM busybox AS later\nFROM first\n";
    let errors = plan_with(source, &options(), &base_images()).unwrap_err();
    let hint = errors.iter().next().unwrap().hint();
    assert_eq!(
        hint.as_deref(),
        Some("if the stage `later` is meant, move its FROM above this one")
    );
}

#[test]
fn an_image_that_does_not_exist_is_an_error_with_a_suggestion() {
    let source = "FROM busybox AS tools\nFROM debian\nCOPY --from=tolls /x /x\n";
    let errors = plan_with(source, &options(), &base_images()).unwrap_err();
    let error = errors.iter().next().unwrap();
    assert_eq!(error.to_string(), "image `tolls:latest` cannot be used");
    assert_eq!(error.hint().as_deref(), Some("did you mean `tools`?"));
    let Problem::BaseImage { source, .. } = &error.problem else {
        panic!("{error:?}")
    };
    assert_eq!(source.to_string(), "no such image");
}

#[test]
fn build_checks_that_need_a_scope() {
    for (source, expected) in [
        (
            "FROM busybox\nENV A=$MISSING\n",
            "UndefinedVar: Usage of undefined variable '$MISSING'",
        ),
        (
            "FROM busybox\nARG NAME\nENV A=$NMAE\nENV NAME=x\n",
            "UndefinedVar: Usage of undefined variable '$NMAE'",
        ),
        (
            "FROM busybox\nENV PASSWORD_X=1\n",
            "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"PASSWORD_X\")",
        ),
        (
            "FROM busybox\nWORKDIR x\n",
            "WorkdirRelativePath: Relative workdir \"x\" can have unexpected results if the base image changes",
        ),
        (
            "FROM busybox\nCMD x\n",
            "JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
        ),
        (
            "FROM --platform=$TARGETPLATFORM busybox\n",
            "RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        (
            "FROM --platform=linux/amd64 busybox\n",
            "FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\"",
        ),
        (
            "FROM --platform=linux/arm64 busybox AS arm64\n",
            "InvalidBaseImagePlatform: Base image busybox was pulled with platform \"linux/amd64\", expected \"linux/arm64\" for current build",
        ),
        (
            "FROM busybox\nEXPOSE 53/UDP\n",
            "ExposeProtoCasing: Defined protocol '53/UDP' in EXPOSE instruction should be lowercase",
        ),
        (
            "FROM busybox\nEXPOSE 80:80\n",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '80:80'",
        ),
        (
            "ARG T\nFROM busybox:$T\n",
            "InvalidDefaultArgInFrom: Default value for ARG busybox:$T results in empty or invalid base image name",
        ),
        (
            "FROM busybox${X}\n",
            "UndefinedArgInFrom: FROM argument 'X' is not declared",
        ),
    ] {
        let options = PlanOptions {
            build_args: BTreeMap::from([("T".into(), "latest".into())]),
            ..options()
        };
        let shown = match source.contains("$T\n") {
            true => planned_with(source, &options)
                .warnings
                .iter()
                .map(|warning| format!("{}: {}", warning.rule.unwrap(), warning.message))
                .collect(),
            false => warnings(source),
        };
        assert!(
            shown
                .iter()
                .any(|warning| warning == expected || warning.starts_with(&format!("{expected} (did"))),
            "{source}: {shown:?}"
        );
    }
    for quiet in [
        "FROM busybox\nARG A\nENV B=$A$PATH KEY_FILE=x\nWORKDIR /x\nWORKDIR y\nSHELL [\"/bin/sh\", \"-c\"]\nCMD x\n",
        "# check=skip=UndefinedVar\nFROM busybox\nENV A=$MISSING\n",
        "FROM busybox\n# check=skip=UndefinedVar\nENV A=$MISSING\n",
    ] {
        assert_eq!(warnings(quiet), Vec::<String>::new(), "{quiet}");
    }
}

#[test]
fn build_checks_of_the_text_are_told_beside_those_of_the_scope() {
    let shown = warnings("FROM busybox AS Base\nMAINTAINER me\nENV A=$B\n");
    let rules: Vec<&str> = shown.iter().filter_map(|warning| warning.split(':').next()).collect();
    assert_eq!(rules, ["StageNameCasing", "MaintainerDeprecated", "UndefinedVar"]);
    let source = "# check=error=true\nFROM busybox\nENV A=$B\n";
    assert_eq!(
        errors(source, &options()),
        ["ENV A=$B: build checks are violated: UndefinedVar"]
    );
    let with = |text: &str| PlanOptions {
        build_args: BTreeMap::from([("BUILDKIT_DOCKERFILE_CHECK".into(), text.into())]),
        ..options()
    };
    assert!(planned_with(source, &with("skip=all")).warnings.is_empty());
    assert!(errors(source, &with("skips=all"))[0].contains("`skips` is not a check option"));
}

#[test]
fn unused_build_arguments_are_told() {
    let told = |names: &[&str]| {
        let build_args = names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        let options = PlanOptions {
            build_args,
            ..options()
        };
        let plan = planned_with("FROM busybox\nARG VERSION\n", &options);
        let warnings = plan.warnings.into_iter().map(|warning| (warning.message, warning.hint));
        warnings.collect::<Vec<_>>()
    };
    assert_eq!(
        told(&["X", "HTTPS_PROXY", "BUILDKIT_INLINE_CACHE", "TARGETARCH", "VERSION"]),
        [("build-arg `X` was not consumed: no ARG declares it".to_owned(), None)]
    );
    assert_eq!(
        told(&["X", "VERSOIN", "Y"]),
        [
            (
                "build-arg `VERSOIN` was not consumed: no ARG declares it".to_owned(),
                Some("did you mean `VERSION`?".to_owned())
            ),
            (
                "build-args `X`, `Y` were not consumed: no ARG declares them".to_owned(),
                None
            )
        ]
    );
}

#[test]
fn hostile_files_end_in_errors_and_not_in_gigabytes() {
    let doubling: String = (0..60).map(|_| "ENV A=$A$A\n").collect();
    let shown = errors(&format!("FROM busybox\nENV A=0123456789abcdef\n{doubling}"), &options());
    assert!(
        shown[0].contains("longer than") || shown[0].contains("more than"),
        "{:.200}",
        shown[0]
    );

    let big = "x".repeat(60_000);
    let copies: String = (0..6_000).map(|index| format!("RUN {index}\n")).collect();
    let shown = errors(&format!("FROM busybox\nENV A={big}\n{copies}"), &options());
    assert!(
        shown[0].contains("bytes of commands, variables and history"),
        "{:.200}",
        shown[0]
    );

    let many: String = (0..60_000).map(|index| format!("V{index}=$U{index} ")).collect();
    planned(&format!(
        "FROM busybox\nENV {}\n",
        many.replace(' ', " \\\n").trim_end_matches("\\\n")
    ));

    let stages: String = (1..2_000)
        .map(|stage| format!("FROM s{} AS s{stage}\nARG A\nCOPY --from=busybox$A /x /x\n", stage - 1))
        .collect();
    let shown = errors(&format!("FROM busybox AS s0\n{stages}"), &options());
    assert!(
        shown[0].contains("instructions before variables in --from"),
        "{:.200}",
        shown[0]
    );

    let images = base_images().with("loud", |config| config.config.on_build = vec!["ENV A=1".into(); 5_000]);
    let errors = plan_with("FROM loud\n", &options(), &images).unwrap_err();
    assert!(errors.to_string().contains("ONBUILD triggers"));
}

#[test]
fn the_platform_that_is_asked_for_is_the_images() {
    let options = PlanOptions {
        platform: Some("linux/arm64".parse().unwrap()),
        ..options()
    };
    let plan = planned_with("FROM busybox\nARG TARGETARCH BUILDPLATFORM\nRUN x\n", &options);
    assert_eq!(plan.config.platform.to_string(), "linux/arm64");
    assert_eq!(seen_by_run(&plan, "TARGETARCH").as_deref(), Some("arm64"));
    assert_eq!(seen_by_run(&plan, "BUILDPLATFORM").as_deref(), Some("linux/amd64"));
}

fn labels(plan: &BuildPlan) -> Vec<String> {
    plan.graph
        .iter()
        .map(|(_, vertex)| vertex.label.name.to_string())
        .collect()
}

#[test]
fn a_base_for_one_platform_decides_unless_somebody_has() {
    let images = base_images().with("only-arm", |config| config.platform = Platform::new("linux", "arm64"));
    let runs_on = |plan: &BuildPlan| {
        let exec = plan.graph.iter().find_map(|(_, vertex)| match &vertex.op {
            Op::Exec(exec) => Some(exec.platform.to_string()),
            _ => None,
        });
        (exec.unwrap(), plan.config.platform.to_string())
    };
    let source = "FROM only-arm\nARG TARGETARCH\nRUN true\nENV A=$TARGETARCH\n";
    let plan = plan_with(source, &options(), &images).unwrap();
    assert_eq!(runs_on(&plan), ("linux/arm64".into(), "linux/arm64".into()));
    assert!(
        plan.config.config.env.contains(&"A=amd64".into()),
        "the target stays what it was"
    );
    let rules: Vec<_> = plan.warnings.iter().filter_map(|warning| warning.rule).collect();
    assert_eq!(rules, [parser::Rule::InvalidBaseImagePlatform]);
    let asked = PlanOptions {
        platform: Some(Platform::new("linux", "amd64")),
        ..options()
    };
    let plan = plan_with(source, &asked, &images).unwrap();
    assert_eq!(runs_on(&plan), ("linux/amd64".into(), "linux/amd64".into()));
}

#[test]
fn steps_name_their_platforms_where_there_are_several() {
    let source = "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN one\nARG TARGETARCH\nRUN two\n\
                  FROM busybox\nCOPY --from=build /a /a\n";
    let plan_for = |platform: &str| {
        let options = PlanOptions {
            platform: Some(platform.parse().unwrap()),
            platform_names: PlatformNames::Shown,
            ..options()
        };
        plan_with(source, &options, &base_images()).unwrap()
    };
    let arm = plan_for("linux/arm64");
    assert_eq!(
        labels(&arm),
        [
            "[linux/amd64 build 1/3] FROM docker.io/library/busybox:latest",
            "[linux/amd64 build 2/3] RUN one",
            "[linux/amd64->arm64 build 3/3] RUN two",
            "[linux/arm64 stage-1 2/2] COPY --from=build /a /a",
        ]
    );
    // What two platforms have in common is one vertex of the graph that holds both.
    let mut graph = plan_for("linux/amd64").graph;
    let before = graph.len();
    let places = graph.absorb(arm.graph);
    assert_eq!(graph.len() - before, 2, "`RUN two` and COPY are not the same");
    assert_eq!(places[0].index(), 0, "the base image is");
    assert_eq!(places[1].index(), 1, "and so is the step before TARGETARCH");
}

#[test]
fn a_linked_copy_needs_its_base_only_to_be_put_on_it() {
    let merges = |source: &str| {
        let plan = planned(source);
        let merges = plan
            .graph
            .iter()
            .filter(|(_, vertex)| matches!(vertex.op, Op::Merge(_)));
        let bases = plan.graph.iter().filter_map(|(_, vertex)| match &vertex.op {
            Op::File(file) => Some(file.base),
            _ => None,
        });
        (merges.count(), bases.collect::<Vec<_>>())
    };
    assert_eq!(
        merges("FROM busybox\nCOPY --link a /b\nADD --link c /d\n"),
        (2, vec![None, None])
    );
    assert_eq!(
        merges("FROM busybox\nCOPY --link --chown=root:5 a /b\n"),
        (1, vec![None])
    );
    assert_eq!(merges("FROM busybox\nCOPY --link=false a /b\n"), (0, vec![Some(0)]));
    // These look at their base.
    assert_eq!(
        merges("FROM busybox\nCOPY --link --chown=app a /b\n"),
        (0, vec![Some(0)])
    );
    assert_eq!(
        merges("FROM busybox\nCOPY --link --chmod=700 a /b\n"),
        (0, vec![Some(0)])
    );
    // There is nothing to be put on.
    assert_eq!(merges("FROM scratch\nCOPY --link a /b\n"), (0, vec![None]));
}
