//! Debian's `docker-registry` on a free port of loopback, with its files in a temporary directory.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The registry. Ends when dropped.
pub struct DebianRegistry {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl DebianRegistry {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            directory.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let started = Command::new("docker-registry")
            .args(["serve".as_ref(), config.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = started.expect("Debian's `docker-registry` cannot be started: `apt-get install docker-registry`");
        let registry = Self {
            child,
            port,
            _directory: directory,
        };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "docker-registry does not listen after 30 seconds"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
