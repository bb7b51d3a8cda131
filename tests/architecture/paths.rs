//! The paths that a source file names, in `use` declarations and anywhere else, made absolute where they begin with
//! `crate`, `self` or `super`. Knows no rule.

use crate::source::{Source, Token};

/// A path, such as `crate::store::Store` or `std::fs`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    pub root: Root,
    /// The names after the root; a glob is `*`.
    pub names: Vec<String>,
    pub line: usize,
    /// Named by test code.
    pub test: bool,
}

impl Path {
    pub fn first(&self) -> &str {
        self.names.first().map_or("*", String::as_str)
    }
}

/// Where a path begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Root {
    /// At this crate's root.
    Crate,
    /// At another crate, or at a name in scope.
    Elsewhere,
}

/// All paths of `source`, groups taken apart.
pub fn paths(source: &Source) -> Vec<Path> {
    let mut reader = Reader {
        tokens: &source.tokens,
        module: source.module(),
        inline: Vec::new(),
        found: Vec::new(),
    };
    reader.run();
    reader.found
}

struct Reader<'a> {
    tokens: &'a [Token],
    module: Vec<String>,
    /// Modules written in braces that the reader is in, each with the braces open before it.
    inline: Vec<usize>,
    found: Vec<Path>,
}

impl Reader<'_> {
    fn run(&mut self) {
        let (mut at, mut depth) = (0, 0_usize);
        while at < self.tokens.len() {
            match self.text(at) {
                "mod" if self.text(at + 2) == "{" => {
                    self.module.push(self.text(at + 1).to_owned());
                    self.inline.push(depth);
                    at += 1;
                }
                "{" => depth += 1,
                "}" => {
                    depth = depth.saturating_sub(1);
                    if self.inline.last() == Some(&depth) {
                        self.inline.pop();
                        self.module.pop();
                    }
                }
                _ if self.begins_path(at) => {
                    at = self.tree(at, None);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn begins_path(&self, at: usize) -> bool {
        let follows_path = at > 0 && self.text(at - 1) == "::" && at > 1 && {
            let before = &self.tokens[at - 2];
            before.text == ">" || (before.is_word() && before.text != "use" && before.text != "in")
        };
        let whole = at > 0 && self.text(at - 1) == "use";
        self.tokens[at].is_word() && !follows_path && (self.text(at + 1) == "::" || whole)
    }

    /// Reads the path or the group of paths at `at`, below `prefix`; gives the place after it.
    fn tree(&mut self, mut at: usize, prefix: Option<(Root, Vec<String>)>) -> usize {
        let begin = at;
        let mut path = prefix;
        loop {
            match self.text(at) {
                "{" => return self.group(at + 1, &path),
                "crate" => path = Some((Root::Crate, Vec::new())),
                "self" if path.is_none() => path = Some((Root::Crate, self.module.clone())),
                "self" => {}
                "super" => {
                    let (root, mut names) = path.unwrap_or_else(|| (Root::Crate, self.module.clone()));
                    names.pop();
                    path = Some((root, names));
                }
                name => {
                    let (root, mut names) = path.unwrap_or((Root::Elsewhere, Vec::new()));
                    names.push(name.to_owned());
                    path = Some((root, names));
                }
            }
            at += 1;
            // Not a turbofish: a path goes on with a name, a group or a glob.
            let goes_on = self.text(at) == "::"
                && self
                    .tokens
                    .get(at + 1)
                    .is_some_and(|next| next.is_word() || next.text == "{" || next.text == "*");
            if !goes_on {
                break;
            }
            at += 1;
        }
        if let Some((root, names)) = path {
            let Token { line, test, .. } = self.tokens[begin];
            self.found.push(Path {
                root,
                names,
                line,
                test,
            });
        }
        at
    }

    fn group(&mut self, mut at: usize, prefix: &Option<(Root, Vec<String>)>) -> usize {
        while at < self.tokens.len() {
            match self.text(at) {
                "}" => return at + 1,
                "," => at += 1,
                "as" => at += 2,
                _ => at = self.tree(at, prefix.clone()).max(at + 1),
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let paths = paths(&Source::new(path, text)).into_iter();
        let shown = |path: Path| match path.root {
            Root::Crate => format!("crate::{}", path.names.join("::")),
            Root::Elsewhere => path.names.join("::"),
        };
        paths.map(shown).collect()
    }

    #[test]
    fn groups_are_taken_apart() {
        let text = "use crate::{oci::{Digest, Platform as P}, store::*};\nuse std::{env, io::{self, Read}};";
        let expected = [
            "crate::oci::Digest",
            "crate::oci::Platform",
            "crate::store::*",
            "std::env",
            "std::io",
            "std::io::Read",
        ];
        assert_eq!(found("src/cache/mod.rs", text), expected);
    }

    #[test]
    fn super_is_followed_out_of_the_module() {
        assert_eq!(
            found("src/store/images.rs", "use super::super::oci::Digest;"),
            ["crate::oci::Digest"]
        );
        assert_eq!(
            found("src/store/mod.rs", "use super::{cli, self};"),
            ["crate::cli", "crate::"]
        );
        assert_eq!(
            found("src/store/images.rs", "use super::StoreError;"),
            ["crate::store::StoreError"]
        );
        assert_eq!(
            found(
                "src/store/mod.rs",
                "mod tests { use super::*; use super::super::cli::A; } fn f() { super::oci::g() }"
            ),
            ["crate::store::*", "crate::cli::A", "crate::oci::g"]
        );
    }

    #[test]
    fn paths_in_expressions_count() {
        let text = "fn f() -> crate::oci::Digest { Vec::<crate::cli::A>::new().len(); <T as crate::run::B>::c(); std::env::var(d) }";
        assert_eq!(
            found("src/x.rs", text),
            [
                "crate::oci::Digest",
                "Vec",
                "crate::cli::A",
                "crate::run::B",
                "std::env::var"
            ]
        );
    }

    #[test]
    fn the_whole_crate_is_a_path_without_names() {
        for text in ["use crate as everything;", "use crate::*;", "use super::*;"] {
            let paths = paths(&Source::new("src/x.rs", text));
            assert_eq!(
                (paths.len(), paths[0].root, paths[0].first()),
                (1, Root::Crate, "*"),
                "{text}"
            );
        }
        assert_eq!(found("src/x.rs", "pub(crate) fn f() {} pub(super) fn g() {}"), [""; 0]);
    }
}
