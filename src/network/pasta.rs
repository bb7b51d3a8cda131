//! An ordinary user's way out: `pasta` answers for the world outside from user space (passt(1)).
//!
//! All sandboxes of one builder share its namespace, because pasta knows one address only. Owns the process: it ends with
//! this value, and with the builder, however that ends.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::link::Links;
use super::{DEVICE, NetworkError, enter, on_a_thread};

/// The address at which pasta passes questions on to the host's resolver, whichever address that has.
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// What pasta makes its device with.
pub(super) const TUNNEL: &str = "/dev/net/tun";
/// How long pasta may take to set up its device, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(1);
/// Bytes of what pasta says when it fails.
const LONGEST_COMPLAINT: usize = 2000;

#[derive(Debug)]
pub(super) struct Pasta {
    process: OwnedFd,
    /// Waits for the process: Linux ends a child with the *thread* that started it, so that one lives as long.
    waiter: Option<JoinHandle<()>>,
}

impl Pasta {
    /// Gives `namespace` a device and a way out.
    pub fn start(namespace: BorrowedFd<'_>) -> Result<Self, NetworkError> {
        let namespace_of_pasta = namespace
            .try_clone_to_owned()
            .map_err(NetworkError::kernel("a descriptor"))?;
        let errors = rustix::fs::memfd_create(c"pasta", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|errno| NetworkError::kernel("a file in memory")(errno.into()))?;
        let complaints = errors.try_clone().map_err(NetworkError::kernel("a descriptor"))?;
        let (sender, started) = channel();
        let waiter = std::thread::spawn(move || keep(namespace_of_pasta, complaints, &sender));
        let process = match started.recv() {
            Ok(Ok(process)) => process,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NetworkError::Missing {
                    program: "pasta",
                    package: "passt",
                });
            }
            Ok(Err(error)) => return Err(NetworkError::kernel("pasta")(error)),
            Err(_) => return Err(NetworkError::kernel("pasta")(io::ErrorKind::BrokenPipe.into())),
        };
        let pasta = Self {
            process,
            waiter: Some(waiter),
        };
        if pasta.is_ready(namespace) {
            return Ok(pasta);
        }
        drop(pasta);
        // pasta says no more of this than that it failed.
        match File::options().read(true).write(true).open(TUNNEL) {
            Err(source) => Err(NetworkError::Tunnel(source)),
            Ok(_) => Err(NetworkError::Pasta(complaint(&errors))),
        }
    }

    /// Waits for the device to have its route, or for the process to end.
    fn is_ready(&self, namespace: BorrowedFd<'_>) -> bool {
        let begun = Instant::now();
        let looked = on_a_thread(|| {
            enter(namespace)?;
            let links = Links::open()?;
            while begun.elapsed() < PATIENCE && !self.waiter.as_ref().is_none_or(JoinHandle::is_finished) {
                // The default route is the last thing that pasta sets up.
                if links.index(DEVICE).is_ok() && links.has_default_route()? {
                    return Ok(true);
                }
                std::thread::sleep(INTERVAL);
            }
            Ok(false)
        });
        looked.unwrap_or(false)
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join();
        }
    }
}

fn keep(namespace: OwnedFd, complaints: OwnedFd, started: &Sender<io::Result<OwnedFd>>) {
    match spawn(namespace, complaints) {
        Ok((mut pasta, process)) => {
            let _ = started.send(Ok(process));
            let _ = pasta.wait();
        }
        Err(error) => drop(started.send(Err(error))),
    }
}

fn spawn(namespace: OwnedFd, complaints: OwnedFd) -> io::Result<(Child, OwnedFd)> {
    let mut command = Command::new("pasta");
    command
        .args([
            "--foreground",
            "--quiet",
            "--stderr",
            "--config-net",
            "--no-map-gw",
            "--netns-only",
        ])
        // Nothing of the host's ports inside, nothing of the inside's ports on the host.
        .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
        .args(["--ns-ifname", DEVICE, "--dns-forward", &RESOLVER.to_string()])
        // The builder's own id: it is the only one that there surely is.
        .args(["--runas", "0:0", "--netns", "/proc/self/fd/0"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/local/bin")
        .current_dir("/")
        .stdin(namespace)
        .stdout(Stdio::null())
        .stderr(complaints);
    // SAFETY: prctl(2) may be called between fork and exec: it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let process = rustix::process::pidfd_open(pid.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?;
    Ok((child, process))
}

/// The last line that pasta wrote.
fn complaint(errors: &OwnedFd) -> String {
    use std::os::unix::fs::FileExt;
    let Ok(file) = errors.as_fd().try_clone_to_owned().map(File::from) else {
        return String::new();
    };
    let mut text = vec![0; LONGEST_COMPLAINT];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    let told = |line: &&str| !line.trim().is_empty() && !line.contains("syslog");
    text.lines().rfind(told).unwrap_or("it said nothing").trim().to_owned()
}
