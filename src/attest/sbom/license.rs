//! Licences: which texts are expressions that SPDX knows.
//!
//! SPDX 2.3, annex D. What is not is kept as it was written, under an identifier of the document's own.

/// Identifiers that are in wide use, of SPDX's list of licences.
const KNOWN: &[&str] = &[
    "0BSD",
    "AFL-2.1",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-2.0",
    "Artistic-1.0",
    "Artistic-1.0-Perl",
    "Artistic-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-2-Clause-Patent",
    "BSD-3-Clause",
    "BSD-4-Clause",
    "BSL-1.0",
    "BlueOak-1.0.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "CDDL-1.1",
    "EPL-1.0",
    "EPL-2.0",
    "FSFAP",
    "FSFUL",
    "FSFULLR",
    "FTL",
    "GFDL-1.1-or-later",
    "GFDL-1.2-or-later",
    "GFDL-1.3-only",
    "GFDL-1.3-or-later",
    "GPL-1.0-only",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "ICU",
    "IJG",
    "ISC",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "LPPL-1.3c",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-1.1",
    "MPL-2.0",
    "NCSA",
    "NTP",
    "OFL-1.1",
    "OLDAP-2.8",
    "OpenSSL",
    "PHP-3.01",
    "PSF-2.0",
    "PostgreSQL",
    "Python-2.0",
    "Python-2.0.1",
    "Ruby",
    "SSH-OpenSSH",
    "Sleepycat",
    "TCL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Vim",
    "W3C",
    "WTFPL",
    "X11",
    "ZPL-2.1",
    "Zlib",
    "blessing",
    "bzip2-1.0.6",
    "curl",
    "libpng-2.0",
    "libtiff",
    "zlib-acknowledgement",
];
/// Exceptions of SPDX's list that are in wide use.
const EXCEPTIONS: &[&str] = &[
    "Autoconf-exception-3.0",
    "Bison-exception-2.2",
    "Classpath-exception-2.0",
    "GCC-exception-2.0",
    "GCC-exception-3.1",
    "LLVM-exception",
    "OCaml-LGPL-linking-exception",
    "OpenSSL-exception",
    "Linux-syscall-note",
    "Font-exception-2.0",
];

/// Whether a text is an expression of known licences.
pub(super) fn is_expression(text: &str) -> bool {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let (mut depth, mut wanted, mut exception) = (0_usize, true, false);
    for word in spaced.split_whitespace() {
        let fits = match (word, wanted) {
            ("(", true) if !exception => {
                depth += 1;
                true
            }
            (")", false) if depth > 0 => {
                depth -= 1;
                true
            }
            ("AND" | "OR", false) => {
                wanted = true;
                true
            }
            ("WITH", false) => {
                (wanted, exception) = (true, true);
                true
            }
            (word, true) if exception => {
                (wanted, exception) = (false, false);
                EXCEPTIONS.contains(&word)
            }
            (word, true) => {
                wanted = false;
                KNOWN.contains(&word)
            }
            _ => false,
        };
        if !fits {
            return false;
        }
    }
    depth == 0 && !wanted
}

/// The identifier under which a document keeps a text that is no expression.
pub(super) fn reference(text: &str) -> String {
    let letters = text
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    let shown: String = letters.take(48).collect();
    let digest = crate::oci::Digest::of(text.as_bytes()).hex();
    format!("LicenseRef-{}-{}", shown.trim_matches('-'), &digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_expressions_are_expressions() {
        for text in [
            "MIT",
            "MIT OR Apache-2.0",
            "(MIT AND Zlib) OR ISC",
            "GPL-2.0-only WITH Classpath-exception-2.0",
        ] {
            assert!(is_expression(text), "{text}");
        }
        for text in [
            "",
            "MIT AND",
            "BSD",
            "(MIT",
            "MIT)",
            "MIT Zlib",
            "OR MIT",
            "GPLv2+",
            "MIT WITH",
            "MIT WITH MIT",
            "()",
        ] {
            assert!(!is_expression(text), "{text}");
        }
        assert!(reference("BSD (3-clause)").starts_with("LicenseRef-BSD--3-clause-"));
    }
}
