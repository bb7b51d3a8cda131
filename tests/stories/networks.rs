//! Which networks steps and containers see, and what is left of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Ids, Project};

/// A server on `address` that says `here` to whoever comes; its port.
fn server(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhere\n");
        }
    });
    port
}

fn devices_of_builders() -> Vec<String> {
    let devices = std::fs::read_dir("/sys/class/net").unwrap();
    let names = devices.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("builder")).collect()
}

#[test]
fn a_step_has_a_network_of_its_own() {
    let project = Project::new();
    let (everywhere, loopback) = (server("0.0.0.0"), server("127.0.0.1"));
    let dockerfile = format!(
        "FROM busybox\nRUN ls /sys/class/net > /seen; wget -q -O - http://host:{everywhere}/ >> /seen; wget -q -O - http://127.0.0.1:{loopback}/ >> /seen; cat /seen\nCMD cat /seen\n"
    );
    project.write("Dockerfile", &dockerfile);
    project.build("-t app --add-host host:host-gateway .").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "eth0\nlo\nhere\n");
    project
        .build("-t app --network host --add-host host:host-gateway .")
        .succeeds();
    let seen = project.run("app").succeeds().stdout;
    assert!(seen.ends_with("here\nhere\n"), "{seen}");
}

/// §1: a socket of the host's without a file is reached from its network only.
#[test]
fn abstract_sockets_of_the_host_are_out_of_reach() {
    let project = Project::new();
    let name = format!("builder-story-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    project.write(
        "Dockerfile",
        format!("FROM busybox\nRUN grep -c '@{name}' /proc/net/unix > /seen; true\nCMD cat /seen\n"),
    );
    project.build("-t app .").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "0\n");
    project.build("-t app --network host .").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "1\n");
}

#[test]
fn a_container_has_a_network_of_its_own() {
    let project = Project::new();
    let port = server("0.0.0.0");
    let fetch = format!("busybox wget -q -O - http://host:{port}/");
    for network in ["default", "bridge", "host"] {
        let run = project.run(&format!("--network {network} --add-host host:host-gateway {fetch}"));
        assert_eq!(run.succeeds().stdout, "here\n", "{network}");
    }
    project
        .run(&format!("--network none --add-host host:127.0.0.1 {fetch}"))
        .exits(1);
}

/// Steps that run at the same time have different addresses.
#[test]
fn each_step_has_an_address() {
    let project = Project::new();
    let step = "RUN ip -4 -o addr show eth0 | awk '{print $4}' > /address; sleep 1\n";
    project.write(
        "Dockerfile",
        format!("FROM busybox AS a\n{step}FROM busybox AS b\nRUN true\n{step}FROM busybox\nCOPY --from=a /address /a\nCOPY --from=b /address /b\nCMD cat /a /b\n"),
    );
    project.build("-t app .").succeeds();
    let addresses = project.run("app").succeeds().stdout;
    let addresses: Vec<&str> = addresses.lines().collect();
    assert_eq!(addresses.len(), 2);
    assert_ne!(addresses[0], addresses[1]);
}

#[test]
fn nothing_is_left_of_a_builder_that_was_killed() {
    for signal in ["-KILL", "-TERM", "-INT"] {
        nothing_is_left_after(signal);
    }
}

fn nothing_is_left_after(signal: &str) {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN ip -4 -o addr show eth0; sleep 1000\n");
    let mut running = project.builder("build --progress plain .").start();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    let shown = lines
        .find(|line| line.as_ref().unwrap().contains(" inet "))
        .unwrap()
        .unwrap();
    let number = shown
        .split("10.213.")
        .nth(1)
        .and_then(|rest| rest.split('.').next())
        .unwrap();
    let device = format!("builder{number}");
    assert!(devices_of_builders().contains(&device));
    let kill = Command::new("kill").args([signal, &running.id().to_string()]).status();
    assert!(kill.unwrap().success());
    running.wait().unwrap();
    let begun = Instant::now();
    while devices_of_builders().contains(&device) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{device} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_ordinary_user_has_the_network_of_pasta() {
    let project = Project::rootless(Ids::Full);
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN ls /sys/class/net > /seen; ip route | grep -c default >> /seen; cat /etc/resolv.conf >> /seen\nCMD cat /seen\n",
    );
    project.build("-t app .").succeeds();
    let seen = project.run("app").succeeds().stdout;
    assert!(seen.starts_with("eth0\nlo\n1\nnameserver 169.254.1.1\n"), "{seen}");
}

#[test]
fn what_pasta_is_and_what_else_can_be_done() {
    let project = Project::rootless(Ids::Full);
    project.write("Dockerfile", "FROM busybox\nRUN true\n");
    // Where programs are looked for is not the caller's to say, so the program is hidden for this one process.
    let mut build = project.builder("build --progress plain .");
    build
        .hiding(Path::new("/usr/bin/pasta"))
        .run()
        .exits(3)
        .says("Dockerfile:2")
        .says("the package `passt`")
        .says("--network host");
    let mut build = project.builder("build --progress plain --network host .");
    build.hiding(Path::new("/usr/bin/pasta")).run().succeeds();
}

#[test]
fn a_device_that_pasta_cannot_open_is_told_of() {
    let project = Project::rootless(Ids::Full);
    project.write("Dockerfile", "FROM busybox\nRUN true\n");
    let mut build = project.builder("build --progress plain .");
    build
        .hiding(Path::new("/dev/net/tun"))
        .run()
        .exits(3)
        .says("Dockerfile:2")
        .says("needs /dev/net/tun, which cannot be opened")
        .says("modprobe tun")
        .says("--network host");
}
