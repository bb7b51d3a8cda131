//! `.dockerignore` against the semantics of moby's patternmatcher, fact by fact.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::Path;

use builder::context::{IgnoreRules, PatternError};
use proptest::prelude::*;

fn rules(content: &str) -> IgnoreRules {
    IgnoreRules::parse(content.as_bytes(), Path::new(".dockerignore")).unwrap()
}

#[track_caller]
fn check(content: &str, excluded: &[&str], kept: &[&str]) {
    let rules = rules(content);
    for path in excluded {
        assert!(
            rules.excludes(path.as_bytes()),
            "{path:?} should be left out by {content:?}"
        );
    }
    for path in kept {
        assert!(
            !rules.excludes(path.as_bytes()),
            "{path:?} should be kept by {content:?}"
        );
    }
}

#[test]
fn a_pattern_is_anchored_at_the_root_and_covers_what_lies_below() {
    check("foo", &["foo", "foo/bar", "foo/bar/baz"], &["sub/foo", "food", "fo"]);
    check("a/b", &["a/b", "a/b/c"], &["a", "a/c", "x/a/b"]);
}

#[test]
fn lines_are_cleaned() {
    check(
        "foo/\n./bar\na//b\n/abs\nx/../y\n  spaced  \n",
        &["foo", "bar", "a/b", "abs", "y", "spaced"],
        &["x"],
    );
    check("foo\r\nbar\r\n", &["foo", "bar"], &[]);
    check("../foo\n.\n/\n..\n", &[], &["foo", "bar"]);
}

#[test]
fn a_byte_order_mark_and_comments_are_no_patterns() {
    check("\u{feff}foo\n", &["foo"], &["\u{feff}foo"]);
    check("\u{feff}# comment\nfoo", &["foo"], &["# comment"]);
    // Only in the first column.
    check(" #foo\n", &["#foo"], &[]);
    check("foo#bar\n\n\t\n", &["foo#bar"], &["foo"]);
}

#[test]
fn the_last_matching_line_wins() {
    check("*.md\n!README.md", &["a.md"], &["README.md"]);
    check("!README.md\n*.md", &["README.md"], &[]);
    check(
        "*.md\n!README*.md\nREADME-secret.md",
        &["README-secret.md", "x.md"],
        &["README.md", "README-x.md"],
    );
    check("*\n!src", &["lib", "lib/a"], &["src", "src/a"]);
    check("! foo\nfoo\n!  foo", &[], &["foo"]);
    check("!!foo", &[], &["!foo", "foo"]);
}

#[test]
fn the_root_itself_is_never_left_out() {
    check("*\n", &["a"], &[""]);
    check("**\n.\n", &["a"], &[""]);
}

#[test]
fn a_matching_parent_directory_counts_for_each_line() {
    check("dir\n!dir/keep", &["dir", "dir/other"], &["dir/keep", "dir/keep/below"]);
    check("dir/sub\n!dir", &[], &["dir/sub", "dir/sub/x", "dir"]);
    // BuildKit's walk takes `vendor/a.go` in here, and its sender leaves the content out.
    check(
        "**\n!**/*.go\n**/vendor",
        &["vendor", "vendor/a.go", "cmd/vendor/a.go"],
        &["a.go"],
    );
    check(
        "dir\n!dir/keep\ndir/keep/not",
        &["dir/keep/not", "dir/keep/not/x"],
        &["dir/keep/yes"],
    );
}

#[test]
fn one_star_and_question_mark_stay_within_a_component() {
    check("*.go", &["a.go", ".go"], &["a/b.go", "a.goo"]);
    check(
        "*/temp*",
        &["a/temp", "a/temporary.txt", "a/temp/x"],
        &["temp", "a/b/temp"],
    );
    check("*/*/temp*", &["a/b/temporary"], &["a/temp", "a/b/c/temp"]);
    check("temp?", &["tempa", "tempb/x", "temp☺"], &["temp", "tempab", "temp"]);
    check("a*/b", &["ab/b", "a/b"], &["a/c/b"]);
}

#[test]
fn two_stars_cross_directories() {
    check("**", &["a", "a/b", ".hidden"], &[]);
    check(
        "**/foo",
        &["foo", "a/foo", "a/b/foo", "a/foo/b"],
        &["xfoo", "a/xfoo", "foox"],
    );
    check("**foo", &["foo", "xfoo", "a/xfoo", "a/foo"], &["foox"]);
    check("**/*.go", &["a.go", "a/b/c.go"], &["a.gox"]);
    check("foo/**", &["foo/a", "foo/a/b"], &["foo", "foox"]);
    check("foo**", &["foo", "foox", "foo/a", "foox/b"], &["fo"]);
    check("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a/xb", "ab", "x/a/b"]);
    check("a**/b", &["a/b", "a/x/b", "ab", "axx/b"], &["axb"]);
    check("a**b", &["ab", "a/b", "ax/b", "a/x/b"], &["axb", "a/xb"]);
    check("**/foo/**", &["foo/a", "x/foo/a"], &["foo", "x/foo"]);
    check("**/**", &["a", "a/b"], &[]);
    check("**/*", &["a", "a/b"], &[]);
    check("***", &["a", "a/b"], &[]);
    check("*/**", &["a/b", "a/b/c"], &["a"]);
    check("a/**/*.txt", &["a/x.txt", "a/b/c/x.txt"], &["x.txt", "a/x.md"]);
    check("**/a**/b", &["ab", "x/a/b", "x/ay/b"], &["x/axb", "x/a/c"]);
}

#[test]
fn classes_and_escapes() {
    check("[a-c].txt", &["a.txt", "c.txt"], &["d.txt", "-.txt"]);
    check("[^a-c].txt", &["d.txt"], &["a.txt"]);
    check("[!a].txt", &["!.txt", "a.txt"], &["b.txt"]);
    check("\\*", &["*"], &["a"]);
    check("\\!important\n\\#x", &["!important", "#x"], &["important"]);
    check("a\\?b/**", &["a?b/c"], &["axb/c"]);
    check("[\\]]", &["]"], &["a"]);
    check("a+(b).{c}|$^", &["a+(b).{c}|$^"], &["a"]);
    check("*.c+", &["a.c+"], &["a.cc"]);
    check("^*", &["^x"], &["x"]);
}

#[test]
fn names_are_bytes() {
    let rules = rules("*.bin\n?x");
    assert!(rules.excludes(b"\xff\xfe.bin"));
    assert!(rules.excludes(b"\xffx"));
    assert!(!rules.excludes(b"\xff\xffx"));
    assert!(rules.excludes("☺x".as_bytes()));
}

#[test]
fn a_malformed_line_is_named() {
    for (content, line, pattern, source) in [
        ("ok\n[a", 2, "[a", PatternError::UnclosedClass),
        ("!", 1, "!", PatternError::NothingToNegate),
        ("# x\n\n !  \n", 3, "!", PatternError::NothingToNegate),
        ("a\\", 1, "a\\", PatternError::TrailingBackslash),
        ("[]a]", 1, "[]a]", PatternError::MalformedClass),
        ("![a-]", 1, "![a-]", PatternError::MalformedClass),
    ] {
        let error = IgnoreRules::parse(content.as_bytes(), Path::new("x/.dockerignore")).unwrap_err();
        assert_eq!(
            (error.line, error.pattern.as_str(), error.source),
            (line, pattern, source),
            "{content:?}"
        );
        assert!(
            error
                .to_string()
                .starts_with(&format!("x/.dockerignore:{line}: `{pattern}`: ")),
            "{error}"
        );
    }
}

#[test]
fn the_deciding_line_can_be_told() {
    let rules = rules("*.md\n\n!README.md\nREADME.*\n");
    let rule = rules.excluding_rule(b"README.md").unwrap();
    assert_eq!((rule.line(), rule.text()), (4, "README.*"));
    assert!(rules.excluding_rule(b"main.rs").is_none());
}

#[test]
fn a_directory_is_skipped_unless_an_exception_can_match_below_it() {
    let skip = |content: &str, path: &str| rules(content).may_skip_directory(path.as_bytes());
    assert!(skip("node_modules", "node_modules"));
    assert!(skip("node_modules", "node_modules/deep"));
    assert!(!skip("node_modules", "src"));
    assert!(skip("node_modules\n!README.md", "node_modules"));
    assert!(!skip("node_modules\n!node_modules/keep", "node_modules"));
    assert!(skip("node_modules\n!node_modules/keep", "node_modules/other"));
    assert!(skip("*\n!src", "lib"));
    assert!(!skip("*\n!src", "src"));
    assert!(!skip("*\n!src/main.rs", "src"));
    assert!(!skip("*\n!**/keep", "lib"));
    assert!(!skip("*\n!**keep", "lib"));
    assert!(!skip("*\n!*/keep", "lib"));
    assert!(skip("*\n!*/keep", "lib/deep"));
    assert!(!skip("*\n!l?b/*.rs", "lib"));
    assert!(skip("*\n!l?b/*.rs", "src"));
    assert!(!skip("*\n!lib/**", "lib"));
    assert!(!skip("*\n!lib**", "lib"));
    // A later line takes the directory out again.
    assert!(skip("!dir/keep\ndir", "dir"));
    assert!(!skip("", "dir"));
}

#[test]
fn flags_have_no_comments() {
    let rules = IgnoreRules::from_patterns(&["#x", "*.go", "!a.go"]).unwrap();
    assert!(rules.excludes(b"#x") && rules.excludes(b"b.go") && !rules.excludes(b"a.go"));
    assert!(rules.has_exceptions());
    assert_eq!(
        IgnoreRules::from_patterns(&["["]).unwrap_err(),
        ("[".to_owned(), PatternError::UnclosedClass)
    );
}

#[test]
fn a_hostile_pattern_takes_no_time() {
    let rules = rules(&format!("{}b", "*a".repeat(200)));
    assert!(!rules.excludes("a".repeat(4000).as_bytes()));
    let rules = IgnoreRules::parse(format!("{}b", "a**/".repeat(100)).as_bytes(), Path::new("x")).unwrap();
    assert!(!rules.excludes("a/".repeat(1000).trim_end_matches('/').as_bytes()));
}

/// Matching as moby does it, word for word: each line against the path and each directory above it.
fn by_definition(lines: &[String], path: &str) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let candidates: Vec<&str> = ends.map(|end| &path[..end]).collect();
    let mut excluded = false;
    for line in lines {
        let (pattern, effect) = line
            .strip_prefix('!')
            .map_or((line.as_str(), true), |pattern| (pattern, false));
        let alone = IgnoreRules::from_patterns(&[pattern]).unwrap();
        // One pattern and a path without parents: nothing but the matching of one string.
        let matches = |candidate: &&&str| alone.excludes(candidate.as_bytes());
        if candidates.iter().any(|candidate| matches(&candidate)) {
            excluded = effect;
        }
    }
    excluded
}

fn lines() -> impl Strategy<Value = Vec<String>> {
    let component = prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("*".to_owned()),
        Just("**".to_owned()),
        Just("a*".to_owned()),
        Just("?".to_owned()),
        Just("[ab]".to_owned()),
        Just("a**b".to_owned()),
    ];
    let pattern = (any::<bool>(), prop::collection::vec(component, 1..4))
        .prop_map(|(negated, components)| format!("{}{}", if negated { "!" } else { "" }, components.join("/")));
    prop::collection::vec(pattern, 0..5)
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "c"]), 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #[test]
    fn incremental_matching_agrees_with_the_definition(lines in lines(), path in path()) {
        let rules = IgnoreRules::from_patterns(&lines).unwrap();
        prop_assert_eq!(rules.excludes(path.as_bytes()), by_definition(&lines, &path));
    }

    #[test]
    fn nothing_below_a_skipped_directory_is_kept(lines in lines(), directory in path(), below in path()) {
        let rules = IgnoreRules::from_patterns(&lines).unwrap();
        if rules.may_skip_directory(directory.as_bytes()) {
            let path = format!("{directory}/{below}");
            prop_assert!(rules.excludes(path.as_bytes()), "{lines:?}: {path}");
        }
    }

    #[test]
    fn no_input_panics(content in prop::collection::vec(any::<u8>(), 0..200), path in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(rules) = IgnoreRules::parse(&content, Path::new("x")) {
            let excluded = rules.excludes(&path);
            prop_assert_eq!(excluded, rules.excluding_rule(&path).is_some());
            rules.may_skip_directory(&path);
        }
    }
}
