//! Ordinary users, made with useradd for the rootless stories.

use std::process::Command;
use std::sync::Mutex;

/// Which ids a user may map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ids {
    /// A range of subordinate ids, through newuidmap.
    Full,
    /// The user's own id alone.
    Single,
}

/// An ordinary user of this machine.
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

static MAKING: Mutex<()> = Mutex::new(());

impl Account {
    /// The user with these ids; made when it is not there. Needs root, as the stories do.
    pub fn get(ids: Ids) -> Self {
        let _guard = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = match ids {
            Ids::Full => "builder-full",
            Ids::Single => "builder-single",
        };
        let id = |flag: &str| -> Option<u32> {
            let output = Command::new("id").args([flag, name]).output().expect("id runs");
            String::from_utf8_lossy(&output.stdout).trim().parse().ok()
        };
        if id("-u").is_none() {
            let mut add = Command::new("useradd");
            add.args(["--no-create-home", "--shell", "/bin/sh", "--user-group"]);
            if ids == Ids::Full {
                add.args(["--key", "SUB_UID_COUNT=65536"]);
            } else {
                add.args(["--key", "SUB_UID_COUNT=0", "--key", "SUB_GID_COUNT=0"]);
            }
            let status = add.arg(name).status().expect("useradd runs");
            assert!(
                status.success(),
                "useradd {name} failed: the rootless stories need root"
            );
        }
        let has_range = std::fs::read_to_string("/etc/subuid")
            .unwrap_or_default()
            .lines()
            .any(|line| line.starts_with(&format!("{name}:")));
        if ids == Ids::Full && !has_range {
            let status = Command::new("usermod")
                .args(["--add-subuids", "300000-365535", "--add-subgids", "300000-365535", name])
                .status();
            assert!(status.expect("usermod runs").success());
        }
        assert!(ids == Ids::Full || !has_range, "{name} must not have subordinate ids");
        Self {
            name: name.into(),
            uid: id("-u").expect("the user exists"),
            gid: id("-g").expect("the user exists"),
        }
    }
}
