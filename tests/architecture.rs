//! The house's rules, held against every source file: imports run downwards, nothing below the command line prints,
//! reads the environment or exits, and each file says first what it is for.
//!
//! The tables below are the rules; `ARCHITECTURE.md` says why they are so. An exception stands in its table with a
//! reason, and one that nothing uses any more fails the test.

#[path = "architecture/paths.rs"]
mod paths;
#[path = "architecture/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use paths::Root;
use source::Source;

/// The floors, lowest first. A module imports from floors below its own.
const FLOORS: [&[&str]; 7] = [
    &["oci", "parser", "progress", "cancel"],
    &[
        "graph", "store", "context", "registry", "network", "cgroup", "policy", "lockfile",
    ],
    &["snapshot", "planner", "cache", "history", "signature"],
    &["executor", "export", "pull", "source", "attest"],
    &["solver", "run", "push"],
    &["pipeline", "disk"],
    &["cli"],
];

/// Imports within a floor or upwards that are allowed: who, whom, why.
const EXTRA_IMPORTS: &[(&str, &str, &str)] = &[];

/// Who alone may import a module, where the floors would let more do so.
const ONLY_FOR: &[(&str, &[&str], &str)] = &[
    (
        "parser",
        &["planner", "pipeline", "cli"],
        "below the plan nothing knows what a Dockerfile is",
    ),
    (
        "planner",
        &["pipeline", "cli"],
        "planner and executor meet in the graph alone",
    ),
    (
        "context",
        &["executor", "solver", "pipeline", "cli"],
        "what a build reads enters through its operations",
    ),
    (
        "registry",
        &["push", "pull", "source", "cache", "signature", "cli"],
        "the network is for transfers",
    ),
    (
        "cache",
        &["solver", "pipeline", "disk", "cli"],
        "whether an operation runs is the solver's to decide; the rooms below it only run",
    ),
];

/// Modules that work on values alone: no disk, no process, no network.
const WITHOUT_DISK: &[&str] = &["oci", "parser", "progress", "graph", "planner", "policy", "lockfile"];
const DISK: &[&str] = &[
    "std::fs",
    "std::process",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "rustix",
    "libc",
];

/// Where asynchronous code may stand.
const ASYNC: &[&str] = &[
    "registry",
    "cache::remote::network",
    "cache::remote::s3",
    "cache::remote::reapi",
];

/// What asynchronous code is made with.
const ASYNC_CRATES: &[&str] = &["tokio", "reqwest", "tonic", "object_store"];

/// The only floor that talks to the user.
const TALKS: &str = "cli";

/// Files below the command line that may use the world around the process, each for one name: file, name, why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "src/executor/sandbox/mod.rs",
        "env::args_os",
        "the re-executed program knows itself by its first argument",
    ),
    (
        "src/executor/sandbox/rootless.rs",
        "process::exit",
        "the parent of the re-executed program hands on its exit code",
    ),
    (
        "src/executor/sandbox/supervisor.rs",
        "process::exit",
        "the sandbox's outer child ends here",
    ),
    (
        "src/executor/sandbox/keeper.rs",
        "process::exit",
        "the process that sandboxes are forked from ends here",
    ),
    (
        "src/executor/sandbox/keeper.rs",
        "stdio::stdin",
        "its requests come on standard input",
    ),
    (
        "src/executor/sandbox/keeper.rs",
        "stdio::stdout",
        "standard input is replaced by the null device",
    ),
    (
        "src/executor/sandbox/init.rs",
        "process::exit",
        "pid 1 of the sandbox ends here",
    ),
    (
        "src/executor/sandbox/runtime/mod.rs",
        "process::exit",
        "the same, while an OCI runtime works",
    ),
    (
        "src/executor/sandbox/program.rs",
        "process::exit",
        "the child that could not execute the command ends here",
    ),
];

const MACROS: &[&str] = &["println", "eprintln", "print", "eprint", "dbg"];

/// Names that reach around the process, by the last two parts of their paths.
const WORLD: &[(&str, &[&str])] = &[
    (
        "env",
        &[
            "var",
            "var_os",
            "vars",
            "vars_os",
            "set_var",
            "remove_var",
            "args",
            "args_os",
        ],
    ),
    (
        "env",
        &["temp_dir", "home_dir", "current_dir", "set_current_dir", "current_exe"],
    ),
    ("process", &["exit", "abort"]),
    ("libc", &["exit", "_exit", "abort"]),
    ("io", &["stdin", "stdout", "stderr"]),
    ("stdio", &["stdin", "stdout", "stderr"]),
];

const VAGUE_NAMES: &[&str] = &[
    "util", "utils", "utility", "common", "helper", "helpers", "misc", "types",
];

/// Lines that a file of the library may have without its tests.
const LONGEST_FILE: usize = 600;

/// A rule that is not kept.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Breach {
    file: String,
    line: usize,
    rule: String,
}

impl Breach {
    fn new(source: &Source, line: usize, rule: impl Into<String>) -> Self {
        Self {
            file: source.path.clone(),
            line,
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Which import of `to` by `from` is wrong, and by which rule.
fn judge_import(from: &str, to: &str) -> Result<(), String> {
    if from == to || EXTRA_IMPORTS.iter().any(|(who, whom, _)| (*who, *whom) == (from, to)) {
        return Ok(());
    }
    if to == "*" {
        return Err("the crate's root is imported whole: name the module that is meant".into());
    }
    let Some(target) = floor(to) else {
        return Err(format!(
            "`crate::{to}` is no module of the table of floors in tests/architecture.rs"
        ));
    };
    let here = floor(from).ok_or_else(|| format!("the module `{from}` has no floor in tests/architecture.rs"))?;
    if target >= here {
        return Err(format!(
            "`{from}` (floor {here}) imports `{to}` (floor {target}): imports run downwards only"
        ));
    }
    match ONLY_FOR.iter().find(|(module, _, _)| *module == to) {
        Some((_, users, why)) if !users.contains(&from) => Err(format!(
            "`{from}` imports `{to}`, which is for {} alone: {why}",
            users.join(", ")
        )),
        _ => Ok(()),
    }
}

fn breaches_of_imports(source: &Source) -> Vec<Breach> {
    let module = source.module();
    // The crate's root declares the modules, and the program calls the uppermost one.
    let Some(from) = module.first() else { return Vec::new() };
    let named = paths::paths(source).into_iter().filter(|path| path.root == Root::Crate);
    named
        .filter_map(|path| {
            judge_import(from, path.first())
                .err()
                .map(|rule| Breach::new(source, path.line, rule))
        })
        .collect()
}

/// Uses of the world around the process, in code that is no test: the name used, and its line.
fn uses_of_the_world(source: &Source) -> Vec<(String, usize)> {
    let mut uses = Vec::new();
    for pair in source.tokens.windows(2).filter(|pair| !pair[0].test) {
        if MACROS.contains(&pair[0].text.as_str()) && pair[1].text == "!" {
            uses.push((format!("{}!", pair[0].text), pair[0].line));
        }
    }
    for path in paths::paths(source)
        .into_iter()
        .filter(|path| path.root == Root::Elsewhere && !path.test)
    {
        let names: Vec<&str> = path.names.iter().map(String::as_str).collect();
        let reaches = |pair: &[&str]| {
            WORLD
                .iter()
                .any(|(module, names)| *module == pair[0] && (pair[1] == "*" || names.contains(&pair[1])))
        };
        let found = names
            .windows(2)
            .find(|pair| reaches(pair) || **pair == ["std", "env"] && names.len() == 2);
        uses.extend(found.map(|pair| (pair.join("::"), path.line)));
    }
    uses
}

fn breaches_of_quiet(source: &Source) -> Vec<Breach> {
    if source.module().first().is_none_or(|module| module == TALKS) {
        return Vec::new();
    }
    let allowed = |name: &str| {
        EXCEPTIONS
            .iter()
            .any(|(file, exception, _)| *file == source.path && *exception == name)
    };
    let uses = uses_of_the_world(source).into_iter().filter(|(name, _)| !allowed(name));
    let rule =
        |name| format!("`{name}` below `{TALKS}`: only the command line prints, reads the environment and exits");
    uses.map(|(name, line)| Breach::new(source, line, rule(name))).collect()
}

fn breaches_of_purity(source: &Source) -> Vec<Breach> {
    let module = source.module();
    let from = module.first().map_or("", String::as_str);
    let is_async = ASYNC.iter().any(|allowed| {
        let allowed: Vec<&str> = allowed.split("::").collect();
        module.len() >= allowed.len() && module.iter().zip(allowed).all(|(name, allowed)| name == allowed)
    });
    let mut breaches = Vec::new();
    for path in paths::paths(source)
        .into_iter()
        .filter(|path| path.root == Root::Elsewhere && !path.test)
    {
        let name = path.names.join("::");
        let begins = |prefix: &&&str| name == **prefix || name.starts_with(&format!("{prefix}::"));
        if WITHOUT_DISK.contains(&from)
            && let Some(prefix) = DISK.iter().find(begins)
        {
            breaches.push(Breach::new(
                source,
                path.line,
                format!("`{prefix}` in `{from}`, which works on values alone"),
            ));
        }
        if !is_async && ASYNC_CRATES.contains(&path.first()) {
            breaches.push(Breach::new(
                source,
                path.line,
                format!("`{}` outside {}", path.first(), ASYNC.join(", ")),
            ));
        }
    }
    let asynchronous = source
        .tokens
        .iter()
        .filter(|token| !is_async && matches!(&*token.text, "async" | "await"));
    let rule = || format!("async code outside {}", ASYNC.join(", "));
    breaches.extend(asynchronous.map(|token| Breach::new(source, token.line, rule())));
    breaches
}

fn breaches_of_form(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    if !source.text.starts_with("//! ") {
        breaches.push(Breach::new(
            source,
            1,
            "the file does not begin with `//!` and what it is for",
        ));
    }
    if let Some(vague) = source.module().iter().find(|name| VAGUE_NAMES.contains(&name.as_str())) {
        breaches.push(Breach::new(
            source,
            1,
            format!("a module `{vague}`: name it after what it owns"),
        ));
    }
    let length = source.length_without_tests();
    if length > LONGEST_FILE && source.path.starts_with("src/") {
        let rule = format!("the file has {length} lines without its tests; {LONGEST_FILE} is the most");
        breaches.push(Breach::new(source, LONGEST_FILE, rule));
    }
    breaches
}

/// The Rust files below `directory` of the package.
fn sources(directory: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pending = vec![root.join(directory)];
    let mut sources = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            pending.extend(entries.map(|entry| entry.expect("a directory of the project's can be listed").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let relative = path.strip_prefix(root).expect("it was found below the package");
            sources.push(Source::new(&relative.to_string_lossy(), &text));
        }
    }
    sources
}

/// The library's files that are not tests from their first line to their last.
fn library() -> Vec<Source> {
    let sources = sources("src");
    assert!(sources.len() > 10, "the sources were not found");
    let tests: BTreeSet<Vec<String>> = sources.iter().flat_map(Source::test_modules).collect();
    let is_test = |source: &Source| (1..=source.module().len()).any(|depth| tests.contains(&source.module()[..depth]));
    sources.into_iter().filter(|source| !is_test(source)).collect()
}

#[track_caller]
fn assert_kept(rule: fn(&Source) -> Vec<Breach>, sources: &[Source]) {
    let mut breaches: Vec<Breach> = sources.iter().flat_map(rule).collect();
    breaches.sort();
    let lines: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} breach(es) of the house's rules:\n{}\n",
        lines.len(),
        lines.join("\n")
    );
}

#[test]
fn imports_run_downwards_only() {
    assert_kept(breaches_of_imports, &sources("src"));
}

#[test]
fn only_the_command_line_prints_reads_the_environment_and_exits() {
    assert_kept(breaches_of_quiet, &library());
}

#[test]
fn values_are_made_without_disk_and_only_what_meets_the_network_is_asynchronous() {
    assert_kept(breaches_of_purity, &library());
}

#[test]
fn files_say_what_they_are_for_and_are_short() {
    let mut all = library();
    all.extend(["tests", "benches"].into_iter().flat_map(sources));
    assert_kept(breaches_of_form, &all);
}

#[test]
fn every_exception_is_needed() {
    let library = library();
    let mut idle = Vec::new();
    for (file, name, _) in EXCEPTIONS {
        let used = |source: &Source| uses_of_the_world(source).iter().any(|(used, _)| used == name);
        if !library.iter().any(|source| source.path == *file && used(source)) {
            idle.push(format!("{file}: {name}"));
        }
    }
    for (from, to, _) in EXTRA_IMPORTS {
        let imports = |source: &Source| {
            let named = paths::paths(source)
                .into_iter()
                .any(|path| path.root == Root::Crate && path.first() == *to);
            named && source.module().first().is_some_and(|module| module == from)
        };
        if !library.iter().any(imports) {
            idle.push(format!("{from} → {to}"));
        }
    }
    assert!(
        idle.is_empty(),
        "exceptions that nothing uses: take them from their table\n{}\n",
        idle.join("\n")
    );
}

#[cfg(test)]
mod of_the_rules {
    use super::*;

    fn said(rule: fn(&Source) -> Vec<Breach>, path: &str, text: &str) -> Vec<String> {
        rule(&Source::new(path, text)).iter().map(Breach::to_string).collect()
    }

    #[test]
    fn an_import_upwards_is_named_with_its_place() {
        let expected = ["src/store/images.rs:2: `store` (floor 1) imports `cli` (floor 6): imports run downwards only"];
        assert_eq!(
            said(
                breaches_of_imports,
                "src/store/images.rs",
                "//! A.\nuse crate::cli::Failure;\n"
            ),
            expected
        );
        assert_eq!(
            said(
                breaches_of_imports,
                "src/store/images.rs",
                "//! A.\nuse super::super::cli::Failure;\n"
            ),
            expected
        );
        assert_eq!(
            said(
                breaches_of_imports,
                "src/store/images.rs",
                "//! A.\nfn f() { crate::cli::main() }\n"
            ),
            expected
        );
    }

    #[test]
    fn imports_within_a_floor_and_past_a_door_are_breaches() {
        for (path, import) in [
            ("src/parser/mod.rs", "oci::Digest"),
            ("src/snapshot/mod.rs", "cache::CacheKey"),
            ("src/executor/mod.rs", "planner::plan"),
            ("src/cache/mod.rs", "parser::Dockerfile"),
            ("src/solver/mod.rs", "nowhere::Thing"),
            ("src/solver/mod.rs", "*"),
        ] {
            assert_eq!(
                said(breaches_of_imports, path, &format!("use crate::{import};")).len(),
                1,
                "{path} {import}"
            );
        }
        for (path, import) in [
            ("src/graph/op.rs", "oci::Digest"),
            ("src/graph/op.rs", "graph::Vertex"),
            ("src/planner/mod.rs", "{parser::Dockerfile, graph::Op}"),
            ("src/cli/mod.rs", "parser::Dockerfile"),
            ("src/lib.rs", "cli"),
        ] {
            assert_eq!(
                said(breaches_of_imports, path, &format!("use crate::{import};")),
                [""; 0],
                "{path} {import}"
            );
        }
    }

    #[test]
    fn talk_below_the_command_line_is_a_breach() {
        for text in [
            "fn f() { println!(\"x\") }",
            "use std::env;",
            "use std::{env::{var_os}, fs};",
            "fn f() { std::env::var(\"HOME\"); }",
            "fn f() { process::exit(1) }",
            "fn f() { io::stderr() }",
        ] {
            assert_eq!(said(breaches_of_quiet, "src/store/mod.rs", text).len(), 1, "{text}");
            assert_eq!(said(breaches_of_quiet, "src/cli/mod.rs", text), [""; 0], "{text}");
        }
        for text in [
            "fn f() { println(x) } // println!(x)",
            "fn f() { std::env::consts::ARCH; env!(\"X\"); writeln!(out) }",
            "#[cfg(test)]\nmod tests { fn f() { println!(\"x\"); std::env::temp_dir(); } }",
        ] {
            assert_eq!(said(breaches_of_quiet, "src/store/mod.rs", text), [""; 0], "{text}");
        }
    }

    #[test]
    fn an_exception_is_for_its_file_and_its_name() {
        let exits = "fn f() { std::process::exit(0) }";
        assert_eq!(said(breaches_of_quiet, "src/executor/sandbox/init.rs", exits), [""; 0]);
        assert_eq!(said(breaches_of_quiet, "src/executor/exec.rs", exits).len(), 1);
        assert_eq!(
            said(
                breaches_of_quiet,
                "src/executor/sandbox/init.rs",
                "fn f() { eprintln!() }"
            )
            .len(),
            1
        );
    }

    #[test]
    fn disk_and_async_stay_in_their_rooms() {
        assert_eq!(
            said(
                breaches_of_purity,
                "src/planner/mod.rs",
                "use std::{fs::File, path::Path};"
            )
            .len(),
            1
        );
        assert_eq!(
            said(breaches_of_purity, "src/store/mod.rs", "use std::fs::File;"),
            [""; 0]
        );
        assert_eq!(
            said(
                breaches_of_purity,
                "src/store/mod.rs",
                "use tokio::fs;\nasync fn f() {}"
            )
            .len(),
            2
        );
        assert_eq!(
            said(
                breaches_of_purity,
                "src/registry/mod.rs",
                "use tokio::fs;\nasync fn f() {}"
            ),
            [""; 0]
        );
    }

    #[test]
    fn a_file_has_a_purpose_a_name_and_a_length() {
        assert_eq!(
            said(breaches_of_form, "src/store/mod.rs", "//! What is kept.\n"),
            [""; 0]
        );
        assert_eq!(
            said(breaches_of_form, "src/store/mod.rs", "// What is kept.\n").len(),
            1
        );
        assert_eq!(said(breaches_of_form, "src/store/util.rs", "//! A.\n").len(), 1);
        let long = format!("//! A.\n{}", "fn f() {}\n".repeat(LONGEST_FILE));
        assert_eq!(said(breaches_of_form, "src/store/mod.rs", &long).len(), 1);
        let tests = format!(
            "//! A.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "fn f() {}\n".repeat(LONGEST_FILE)
        );
        assert_eq!(said(breaches_of_form, "src/store/mod.rs", &tests), [""; 0]);
    }
}
