//! `/etc/hosts`, `/etc/resolv.conf` and, in a container, `/etc/hostname` as a process in a sandbox sees them.
//!
//! Owns their content. They are mounted, never written into the root: no layer contains them.

use std::fmt::Write;
use std::io::Read;

use super::sandbox::{Access, Network, SandboxSpec};
use crate::graph::ExtraHost;

/// Bytes of the host's own file that are read, at most.
const LARGEST: u64 = 64 * 1024;
/// Permission bits of the files.
const MODE: u32 = 0o644;

/// Mounts the files that a container has; `spec` has its host name and network already.
pub fn add_to_container(spec: &mut SandboxSpec, extra_hosts: &[ExtraHost]) {
    add(spec, extra_hosts, Access::ReadWrite);
    let hostname = format!("{}\n", spec.hostname);
    spec.file("/etc/hostname", hostname.into_bytes(), MODE, (0, 0), Access::ReadWrite);
}

/// Mounts the files that a step of a build has. As with BuildKit, they cannot be written to, since nothing of it would
/// stay; `/etc/hostname` is the image's own, and can.
pub fn add_to_step(spec: &mut SandboxSpec, extra_hosts: &[ExtraHost]) {
    add(spec, extra_hosts, Access::ReadOnly);
}

fn add(spec: &mut SandboxSpec, extra_hosts: &[ExtraHost], access: Access) {
    let hosts = hosts(&spec.hostname, extra_hosts);
    let resolv_conf = match spec.network {
        Network::Host => host_resolv_conf(),
        Network::None => Vec::new(),
    };
    for (target, content) in [("/etc/hosts", hosts.into_bytes()), ("/etc/resolv.conf", resolv_conf)] {
        spec.file(target, content, MODE, (0, 0), access);
    }
}

fn hosts(hostname: &str, extra_hosts: &[ExtraHost]) -> String {
    let mut hosts = String::from("127.0.0.1\tlocalhost");
    // Writing to a String cannot fail.
    if hostname != "localhost" {
        let _ = write!(hosts, " {hostname}");
    }
    hosts.push_str("\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra_hosts {
        let _ = writeln!(hosts, "{}\t{}", host.address, host.name);
    }
    hosts
}

/// The host's resolver, which a process on the host's network can reach as it stands; Docker's default where there is
/// none.
fn host_resolv_conf() -> Vec<u8> {
    let mut content = Vec::new();
    let read = std::fs::File::open("/etc/resolv.conf").and_then(|file| file.take(LARGEST).read_to_end(&mut content));
    match read {
        Ok(length) if length > 0 => content,
        _ => b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n".to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_listed_once_each() {
        let extra = ExtraHost {
            name: "db".into(),
            address: "10.0.0.7".parse().unwrap(),
        };
        let hosts = hosts("box", &[extra]);
        assert_eq!(
            hosts,
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n"
        );
    }
}
