//! Paths inside an image: text with `/`, never joined to one of the host's.

/// The path from the root, without `.`, `..`, doubled or trailing `/`; what leads out of the root stays at the root.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path` seen from `directory`, which is absolute.
pub(super) fn join(directory: &str, path: &str) -> String {
    match path.starts_with('/') {
        true => clean(path),
        false => clean(&format!("{directory}/{path}")),
    }
}

/// Where COPY and ADD write to: [`join`], with a trailing `/` kept, because it means a directory.
pub(super) fn destination(directory: &str, path: &str) -> String {
    let joined = join(directory, path);
    match is_directory(path) && joined != "/" {
        true => format!("{joined}/"),
        false => joined,
    }
}

/// Whether the path itself says that it is a directory.
pub(super) fn is_directory(path: &str) -> bool {
    matches!(path.rsplit('/').next(), None | Some("" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (given, expected) in [
            ("/", "/"),
            ("", "/"),
            ("../../a", "/a"),
            ("a//b/./c/..", "/a/b"),
            ("/..", "/"),
        ] {
            assert_eq!(clean(given), expected, "{given}");
        }
    }

    #[test]
    fn destinations_keep_what_says_directory() {
        for (given, expected) in [
            (".", "/app/"),
            ("", "/app/"),
            ("x", "/app/x"),
            ("x/", "/app/x/"),
            ("./x/.", "/app/x/"),
            ("/", "/"),
            ("/etc/../srv/", "/srv/"),
            ("..", "/"),
        ] {
            assert_eq!(destination("/app", given), expected, "{given}");
        }
    }
}
