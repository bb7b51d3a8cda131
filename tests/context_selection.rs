//! What COPY selects from a context, and when its digest changes.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use builder::context::{ContextError, FileKind, Layout, LocalContext, Role, SelectedSource, Selection, SelectionError};
use tempfile::TempDir;

/// A context to be, with its stat caches beside it.
struct Project {
    directory: TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(project.path("")).unwrap();
        project
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("context").join(path)
    }

    fn write(&self, path: &str, content: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn link(&self, target: &str, path: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    fn open(&self) -> LocalContext {
        LocalContext::open(&self.path(""), None, &self.directory.path().join("caches")).unwrap()
    }

    fn select(&self, sources: &[&str]) -> Result<Selection, SelectionError> {
        self.select_with(sources, &[], Layout::Flat)
    }

    fn select_with(&self, sources: &[&str], exclude: &[&str], layout: Layout) -> Result<Selection, SelectionError> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let selected = self.open().select(&owned(sources), &owned(exclude), layout)?;
        Ok(selected.selection)
    }

    fn digest(&self, sources: &[&str]) -> [u8; 32] {
        let sources: Vec<_> = sources.iter().map(|source| (*source).to_owned()).collect();
        self.open().select(&sources, &[], Layout::Flat).unwrap().digest
    }
}

fn names(source: &SelectedSource) -> Vec<String> {
    let names = source
        .entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.path).into_owned());
    names.collect()
}

/// `written -> path: entries` of each source.
fn shown(selection: &Selection) -> Vec<String> {
    let sources = selection.sources.iter();
    let shown = sources.map(|source| {
        let name = String::from_utf8_lossy(&source.name);
        let path = String::from_utf8_lossy(&source.path);
        format!("{name} = {path}: {}", names(source).join(" "))
    });
    shown.collect()
}

#[test]
fn a_file_is_one_entry_and_a_directory_is_what_it_holds() {
    let project = Project::new();
    project
        .write("app.py", "x")
        .write("src/b.rs", "b")
        .write("src/a/z.rs", "z")
        .write("src/a.rs", "a");
    assert_eq!(shown(&project.select(&["app.py"]).unwrap()), ["app.py = app.py: "]);
    assert_eq!(
        shown(&project.select(&["src"]).unwrap()),
        ["src = src: a a/z.rs a.rs b.rs"],
        "each directory before what is in it, names by their bytes"
    );
    assert_eq!(shown(&project.select(&["src/", "./app.py"]).unwrap()).len(), 2);
}

#[test]
fn a_source_never_leaves_the_root() {
    let project = Project::new();
    fs::write(project.directory.path().join("secret"), "s").unwrap();
    project.write("etc/passwd", "mine").write("a", "a");
    for source in [
        "../../../etc/passwd",
        "/etc/passwd",
        "etc/../../../etc/passwd",
        "./etc/./passwd",
    ] {
        assert_eq!(
            shown(&project.select(&[source]).unwrap()),
            ["passwd = etc/passwd: "],
            "{source}"
        );
    }
    assert!(matches!(
        project.select(&["../secret"]),
        Err(SelectionError::NotFound { .. })
    ));
    project
        .link("../secret", "out")
        .link("/../../secret", "far")
        .link("/etc/passwd", "absolute");
    assert!(matches!(project.select(&["out"]), Err(SelectionError::NotFound { .. })));
    assert!(matches!(project.select(&["far"]), Err(SelectionError::NotFound { .. })));
    assert_eq!(
        shown(&project.select(&["absolute"]).unwrap()),
        ["absolute = etc/passwd: "]
    );
}

#[test]
fn links_in_a_source_are_followed_and_links_below_are_kept() {
    let project = Project::new();
    project
        .write("real/file", "x")
        .link("../real", "links/dir")
        .link("dir", "links/again")
        .link("file", "real/inner");
    assert_eq!(
        shown(&project.select(&["links/again"]).unwrap()),
        ["again = real: file inner"]
    );
    let selection = project.select(&["links/dir/inner"]).unwrap();
    assert_eq!(shown(&selection), ["inner = real/file: "]);
    let selection = project.select(&["links"]).unwrap();
    let kinds: Vec<_> = selection.sources[0]
        .entries
        .iter()
        .map(|entry| entry.metadata.kind)
        .collect();
    assert_eq!(kinds, [FileKind::Symlink, FileKind::Symlink]);
    assert_eq!(&*selection.sources[0].entries[0].target, b"dir");
}

#[test]
fn links_in_circles_are_an_error() {
    let project = Project::new();
    project.link("b", "a").link("a", "b");
    assert!(matches!(project.select(&["a"]), Err(SelectionError::Io { .. })));
}

#[test]
fn a_wildcard_selects_in_order_and_may_select_nothing() {
    let project = Project::new();
    project
        .write("b.txt", "")
        .write("a.txt", "")
        .write("sub/c.txt", "")
        .write("d.md", "")
        .write("dir.txt/x", "");
    assert_eq!(
        shown(&project.select(&["*.txt"]).unwrap()),
        ["a.txt = a.txt: ", "b.txt = b.txt: ", "dir.txt = dir.txt: x"]
    );
    assert_eq!(shown(&project.select(&["*/*.txt"]).unwrap()), ["c.txt = sub/c.txt: "]);
    assert_eq!(shown(&project.select(&["s?b"]).unwrap()), ["sub = sub: c.txt"]);
    assert!(project.select(&["*.none"]).unwrap().is_empty());
    assert!(project.select(&["sub/[x]"]).unwrap().is_empty());
    assert!(matches!(project.select(&["[a"]), Err(SelectionError::Pattern { .. })));
}

#[test]
fn an_escaped_wildcard_is_a_name() {
    let project = Project::new();
    project.write("a[1].txt", "").write("a1.txt", "");
    assert_eq!(
        shown(&project.select(&["a[[]1].txt"]).unwrap()),
        ["a[1].txt = a[1].txt: "]
    );
    assert_eq!(
        shown(&project.select(&["a\\[1].txt"]).unwrap()),
        ["a[1].txt = a[1].txt: "]
    );
}

#[test]
fn a_missing_source_names_its_neighbours() {
    let project = Project::new();
    project.write("requirements.txt", "").write("src/main.rs", "");
    let error = project.select(&["requirement.txt"]).unwrap_err();
    assert_eq!(error.to_string(), "`requirement.txt`: not found");
    assert_eq!(error.hint().as_deref(), Some("did you mean `requirements.txt`?"));
    let error = project.select(&["src/Main.rs"]).unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("did you mean `src/main.rs`?"));
    let error = project.select(&["nothing/alike"]).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.hint()),
        ("`nothing/alike`: not found", None)
    );
    assert!(matches!(
        project.select(&["requirements.txt/x"]),
        Err(SelectionError::NotFound { .. })
    ));
}

#[test]
fn ignored_files_are_not_there() {
    let project = Project::new();
    project.write(".dockerignore", "secret\n*.log\nnode_modules\n!node_modules/keep/me\n");
    project.write("secret/key", "").write("a.log", "").write("a.txt", "");
    project
        .write("node_modules/x/y", "")
        .write("node_modules/keep/me", "")
        .write("node_modules/keep/not", "");
    let selection = project.select(&["."]).unwrap();
    assert_eq!(
        shown(&selection),
        [" = : .dockerignore a.txt node_modules node_modules/keep node_modules/keep/me"]
    );
    let ancestors = selection.sources[0]
        .entries
        .iter()
        .filter(|entry| entry.role == Role::Ancestor);
    assert_eq!(ancestors.count(), 2);
    let error = project.select(&["secret/key"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`secret/key`: left out by `secret` (line 1 of the ignore file)"
    );
    assert!(error.hint().unwrap().contains("`!secret/key`"));
    assert!(matches!(
        project.select(&["secret"]),
        Err(SelectionError::Ignored { .. })
    ));
    assert!(project.select(&["*.log"]).unwrap().is_empty());
    assert_eq!(
        shown(&project.select(&["node_mod*"]).unwrap()),
        ["node_modules = node_modules: keep keep/me"]
    );
    // A link does not lead round the ignore file.
    project.link("secret/key", "alias");
    assert!(matches!(
        project.select(&["alias"]),
        Err(SelectionError::Ignored { .. })
    ));
}

#[test]
fn an_ignored_directory_is_never_entered() {
    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    let project = Project::new();
    project
        .write(".dockerignore", "closed")
        .write("closed/x", "")
        .write("a", "");
    // The kernel tells of every opening of the directory, root's too.
    let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    add_watch(&watch, project.path("closed"), WatchFlags::OPEN).unwrap();
    let opened = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        Reader::new(&watch, &mut buffer).next().is_ok()
    };
    project.select(&["."]).unwrap();
    assert!(!opened(), "the ignored directory was opened");
    fs::write(project.path(".dockerignore"), "").unwrap();
    project.select(&["."]).unwrap();
    assert!(opened(), "the watch sees nothing");
}

#[test]
fn exclude_is_seen_from_the_source() {
    let project = Project::new();
    project
        .write("src/a.go", "")
        .write("src/sub/b.go", "")
        .write("src/sub/b.txt", "")
        .write("x.go", "")
        .write("x.c", "");
    let select =
        |sources: &[&str], exclude: &[&str]| shown(&project.select_with(sources, exclude, Layout::Flat).unwrap());
    assert_eq!(select(&["src"], &["*.go"]), ["src = src: sub sub/b.go sub/b.txt"]);
    assert_eq!(
        select(&["src"], &["**/*.go", "!sub/b.go"]),
        ["src = src: sub sub/b.go sub/b.txt"]
    );
    assert_eq!(select(&["src"], &["sub"]), ["src = src: a.go"]);
    assert_eq!(
        select(&["src"], &["sub", "!sub/b.txt"]),
        ["src = src: a.go sub sub/b.txt"]
    );
    // Files that are sources themselves are copied, and nothing below a source begins with `/`: BuildKit's rules.
    assert_eq!(select(&["x.*"], &["*.go"]), ["x.c = x.c: ", "x.go = x.go: "]);
    assert_eq!(select(&["src"], &["/sub"]), ["src = src: a.go sub sub/b.go sub/b.txt"]);
}

#[test]
fn parents_are_kept_from_the_pivot_on() {
    let project = Project::new();
    project
        .write("a/b/c.txt", "")
        .write("a/b/d.md", "")
        .write("a/x/c.txt", "")
        .write("e.txt", "");
    let select = |source: &str| project.select_with(&[source], &[], Layout::Parents);
    assert_eq!(shown(&select("a/b/c.txt").unwrap()), [" = : a a/b a/b/c.txt"]);
    assert_eq!(shown(&select("a/./b").unwrap()), ["a = a: b b/c.txt b/d.md"]);
    assert_eq!(
        shown(&select("a/*/c.txt").unwrap()),
        [" = : a a/b a/b/c.txt a/x a/x/c.txt"]
    );
    assert_eq!(
        shown(&select("./**/*.txt").unwrap()),
        [" = : a a/b a/b/c.txt a/x a/x/c.txt e.txt"]
    );
    assert_eq!(
        shown(&select("a/*/./c.txt").unwrap()),
        ["b = a/b: c.txt", "x = a/x: c.txt"]
    );
    assert!(select("*.none").unwrap().is_empty());
    assert!(matches!(select("a/none"), Err(SelectionError::NotFound { .. })));
}

#[test]
fn names_need_not_be_utf8() {
    let project = Project::new();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    fs::write(project.path("").join(name), "x").unwrap();
    let selection = project.select(&["."]).unwrap();
    assert_eq!(&*selection.sources[0].entries[0].path, b"caf\xe9");
    assert_eq!(project.select(&["caf?"]).unwrap().sources[0].name, b"caf\xe9");
}

#[test]
fn hard_links_are_noticed() {
    let project = Project::new();
    project.write("d/a", "x").write("d/c", "y");
    fs::hard_link(project.path("d/a"), project.path("d/b")).unwrap();
    let selection = project.select(&["d"]).unwrap();
    assert_eq!(selection.sources[0].hard_links, [(1, 0)].into_iter().collect());
    let linked = project.digest(&["d"]);
    fs::remove_file(project.path("d/b")).unwrap();
    project.write("d/b", "x");
    assert_ne!(project.digest(&["d"]), linked);
}

#[test]
fn a_digest_changes_exactly_when_what_is_copied_does() {
    let project = Project::new();
    project
        .write("d/a", "one")
        .write("d/e/b", "two")
        .write("other", "x")
        .link("a", "d/l");
    let first = project.digest(&["d"]);
    let changed = |what: &str, change: &dyn Fn(), undo: &dyn Fn()| {
        change();
        assert_ne!(project.digest(&["d"]), first, "{what}");
        undo();
        assert_eq!(project.digest(&["d"]), first, "{what} undone");
    };
    let same = |what: &str, change: &dyn Fn()| {
        change();
        assert_eq!(project.digest(&["d"]), first, "{what}");
    };
    let mode = |path: &str, mode| fs::set_permissions(project.path(path), fs::Permissions::from_mode(mode)).unwrap();
    let rename = |from: &str, to: &str| fs::rename(project.path(from), project.path(to)).unwrap();
    same("a file that is not selected", &|| _ = project.write("other", "y"));
    same("times", &|| {
        let file = fs::File::options().write(true).open(project.path("d/a")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    });
    same("the mode of the directory that is not copied itself", &|| {
        mode("d", 0o700)
    });
    changed("content", &|| _ = project.write("d/a", "ONE"), &|| {
        _ = project.write("d/a", "one")
    });
    changed("a file's mode", &|| mode("d/a", 0o755), &|| mode("d/a", 0o644));
    changed("a directory's mode", &|| mode("d/e", 0o700), &|| mode("d/e", 0o755));
    changed("a name", &|| rename("d/a", "d/A"), &|| rename("d/A", "d/a"));
    changed(
        "an empty directory",
        &|| fs::create_dir(project.path("d/n")).unwrap(),
        &|| {
            fs::remove_dir(project.path("d/n")).unwrap();
        },
    );
    let relink = |target| {
        fs::remove_file(project.path("d/l")).unwrap();
        project.link(target, "d/l");
    };
    changed("a link's target", &|| relink("b"), &|| relink("a"));
}

#[test]
fn contents_do_not_run_into_each_other() {
    let (one, other) = (Project::new(), Project::new());
    one.write("d/a", "xy").write("d/b", "z");
    other.write("d/a", "x").write("d/b", "yz");
    assert_ne!(one.digest(&["d"]), other.digest(&["d"]));
    let (one, other) = (Project::new(), Project::new());
    one.write("a", "1").write("b", "2");
    other.write("a", "1").write("b", "2");
    assert_eq!(one.digest(&["."]), other.digest(&["."]), "the same tree elsewhere");
    assert_ne!(one.digest(&["a", "b"]), one.digest(&["b", "a"]));
}

#[test]
fn a_file_found_by_a_wildcard_is_known_by_its_name() {
    let project = Project::new();
    project.write("a.txt", "x");
    let before = project.digest(&["*.txt"]);
    fs::rename(project.path("a.txt"), project.path("b.txt")).unwrap();
    assert_ne!(project.digest(&["*.txt"]), before);
}

#[test]
fn an_attribute_of_the_users_counts() {
    let project = Project::new();
    project.write("d/a", "x");
    let before = project.digest(&["d"]);
    let path = project.path("d/a");
    match rustix::fs::setxattr(&path, "user.note", b"1", rustix::fs::XattrFlags::empty()) {
        Err(rustix::io::Errno::NOTSUP) => return,
        result => result.unwrap(),
    }
    let with = project.digest(&["d"]);
    assert_ne!(with, before);
    rustix::fs::setxattr(&path, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(project.digest(&["d"]), with, "the storage's own marks are no content");
}

#[test]
fn the_stat_cache_gives_the_digest_that_reading_gives() {
    let project = Project::new();
    for index in 0..50 {
        project.write(&format!("d/{index}"), &format!("content {index}"));
    }
    std::thread::sleep(std::time::Duration::from_millis(60));
    let context = project.open();
    let sources = ["d".to_owned()];
    let cold = context.select(&sources, &[], Layout::Flat).unwrap();
    context.save_stat_cache().unwrap();
    let again = project.open();
    let warm = again.select(&sources, &[], Layout::Flat).unwrap();
    assert_eq!(warm.digest, cold.digest);
    let entries = &warm.selection.sources[0].entries;
    assert!(
        entries
            .iter()
            .all(|entry| again.stat_cache().digest_of(&entry.metadata).is_some())
    );
    // A change that keeps size and mtime shows in the ctime.
    let modified = fs::metadata(project.path("d/7")).unwrap().modified().unwrap();
    project.write("d/7", "CONTENT 7");
    fs::File::options()
        .write(true)
        .open(project.path("d/7"))
        .unwrap()
        .set_modified(modified)
        .unwrap();
    assert_ne!(
        project.open().select(&sources, &[], Layout::Flat).unwrap().digest,
        cold.digest
    );
}

#[test]
fn a_file_just_written_is_never_taken_from_the_cache() {
    let project = Project::new();
    for round in 0..200 {
        project.write("f", &format!("{round:04}"));
        let one = project.open();
        let before = one.select(&["f".to_owned()], &[], Layout::Flat).unwrap().digest;
        one.save_stat_cache().unwrap();
        project.write("f", &format!("{:04}", round + 1));
        assert_ne!(project.digest(&["f"]), before, "round {round}");
    }
}

#[test]
fn a_pipe_is_noted_and_not_waited_for() {
    let project = Project::new();
    let directory = fs::File::open(project.path("")).unwrap();
    rustix::fs::mknodat(
        directory.as_fd(),
        "pipe",
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let selection = project.select(&["."]).unwrap();
    assert_eq!(selection.sources[0].entries[0].metadata.kind, FileKind::Fifo);
}

#[test]
fn a_tree_that_changes_all_the_time_gives_a_whole_answer_or_an_error() {
    let project = Project::new();
    project
        .write("d/a", &"a".repeat(300_000))
        .write("d/e/x", "x")
        .write("target/x", "hostile");
    let stop = AtomicBool::new(false);
    let failure = std::thread::scope(|scope| {
        scope.spawn(|| {
            // A directory that becomes a link and back: what is read must always lie below the root, at its own path.
            while !stop.load(Ordering::Relaxed) {
                fs::rename(project.path("d/e"), project.path("d/away")).unwrap();
                symlink("../target", project.path("d/e")).unwrap();
                fs::remove_file(project.path("d/e")).unwrap();
                fs::rename(project.path("d/away"), project.path("d/e")).unwrap();
            }
        });
        let select = || match project.select(&["d"]) {
            Ok(selection) => names(&selection.sources[0]).is_empty().then(|| "nothing".to_owned()),
            Err(error) => (!error.is_transient()).then(|| error.to_string()),
        };
        let failure = (0..300).find_map(|_| select());
        stop.store(true, Ordering::Relaxed);
        failure
    });
    assert_eq!(failure, None);
}

#[test]
fn what_is_no_context_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let caches = directory.path().join("caches");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(
        LocalContext::open(&file, None, &caches),
        Err(ContextError::NotADirectory { .. })
    ));
    let missing = directory.path().join("missing");
    assert!(matches!(
        LocalContext::open(&missing, None, &caches),
        Err(ContextError::Missing { .. })
    ));
    let context = directory.path().join("context");
    fs::create_dir_all(context.join(".dockerignore")).unwrap();
    assert!(matches!(
        LocalContext::open(&context, None, &caches),
        Err(ContextError::IgnoreFile { .. })
    ));
    fs::remove_dir(context.join(".dockerignore")).unwrap();
    fs::write(context.join(".dockerignore"), "ok\n[").unwrap();
    let error = LocalContext::open(&context, None, &caches).unwrap_err();
    assert!(error.to_string().contains(".dockerignore:2"), "{error}");
}

#[test]
fn an_ignore_file_beside_the_dockerfile_goes_first() {
    let project = Project::new();
    project
        .write(".dockerignore", "a")
        .write("a", "")
        .write("b", "")
        .write("dev.Dockerfile.dockerignore", "b");
    let open = |dockerfile: Option<&Path>| {
        LocalContext::open(&project.path(""), dockerfile, &project.directory.path().join("caches")).unwrap()
    };
    assert!(open(None).ignore().excludes(b"a") && !open(None).ignore().excludes(b"b"));
    let named = open(Some(&project.path("dev.Dockerfile")));
    assert!(!named.ignore().excludes(b"a") && named.ignore().excludes(b"b"));
    let other = open(Some(&project.path("Dockerfile")));
    assert!(other.ignore().excludes(b"a"));
}
