//! What makes programs content that insist on users which a process with a single id cannot become.
//!
//! Owns the list, which is short: apt. It gives up root for a user of its own before it downloads, holds the kernel's word
//! for it against what it asked for, and stops. It is told not to by a file that lies in memory.

use super::sandbox::rootless::has_single_id;
use super::sandbox::{Access, Bytes, SandboxSpec};

/// apt.conf(5): read before the files of `/etc/apt`, which may say otherwise.
const VARIABLE: &[u8] = b"APT_CONFIG=";
/// Not below /dev, which stays in an image that had none only where nothing is mounted below it.
const FILE: &str = "/run/.apt-single-id.conf";
const CONTENT: &[u8] = b"APT::Sandbox::User \"root\";\n";

/// Adds to `spec` what is needed where there is one id alone.
pub fn ease(spec: &mut SandboxSpec) {
    if has_single_id() {
        add(spec);
    }
}

fn add(spec: &mut SandboxSpec) {
    // Whoever sets the variable knows better.
    if spec.env.iter().any(|entry| entry.0.starts_with(VARIABLE)) {
        return;
    }
    spec.env.push(Bytes([VARIABLE, FILE.as_bytes()].concat()));
    spec.file(FILE, CONTENT.to_vec(), 0o444, (0, 0), Access::ReadOnly);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_the_users_own_is_left_alone() {
        let spec = || SandboxSpec::new(std::fs::File::open("/dev/null").unwrap().into(), Vec::new());
        let mut eased = spec();
        add(&mut eased);
        assert_eq!((eased.env.len(), eased.mounts.len()), (1, 1));
        let mut own = spec();
        own.env.push(Bytes(b"APT_CONFIG=/etc/own".to_vec()));
        add(&mut own);
        assert_eq!((own.env.len(), own.mounts.len()), (1, 0));
    }
}
