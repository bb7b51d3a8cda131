//! Where contexts come from, and what the programs that fetch them may see of the environment.

use std::ffi::OsString;

/// Variables that `git` and its helpers work with: where programs lie, proxies, the user's agent.
const VARIABLES: [&str; 10] = [
    "PATH",
    "SSH_AUTH_SOCK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// Those of them that are set.
pub(super) fn variables() -> Vec<(OsString, OsString)> {
    let set = |name: &str| std::env::var_os(name).map(|value| (OsString::from(name), value));
    VARIABLES.iter().filter_map(|name| set(name)).collect()
}
