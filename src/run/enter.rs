//! A failed step, entered again: the root as its process left it, with all that the step was lent, and a shell in it.
//!
//! Owns the choice of what is run; what it sees is the executor's affair, as it was when the step ran.

use std::os::fd::OwnedFd;

use super::error::RunError;
use super::process::{Streams, start};
use crate::cancel::Cancel;
use crate::executor::sandbox::Ended;
use crate::executor::{self, Agents, ExecTask, FailedState, Input, LocalCacheMounts, Resources, SecretSource};
use crate::graph::{Exec, NetworkMode};
use crate::network::NetworkOnDemand;
use crate::progress::{Progress, StepId};
use crate::snapshot::{ContainerPath, Rootfs, Snapshotter};
use crate::store::Store;

/// The shell of those who have no other.
const SHELL: &str = "/bin/sh";
/// Names that shells go by.
const SHELLS: [&str; 8] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "mksh", "fish"];
/// Where programs are looked for in a step without `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be done in a failed step.
#[derive(Clone, Copy)]
pub struct Visit<'a> {
    /// The step. Its snapshots must stay where they are meanwhile.
    pub state: &'a FailedState,
    /// What to run; nothing for a shell.
    pub command: &'a [String],
    /// As whom, in place of the step's user.
    pub user: Option<&'a str>,
    /// On which network, in place of the step's.
    pub network_mode: Option<NetworkMode>,
    /// Variables besides the step's.
    pub env: &'a [String],
    /// Where cache mounts live.
    pub store: &'a Store,
    /// Makes and mounts snapshots.
    pub snapshotter: &'a Snapshotter,
    /// The secrets that it gets.
    pub secrets: &'a dyn SecretSource,
    /// The agents that it gets.
    pub agents: &'a Agents,
    /// What it may use.
    pub resources: &'a Resources,
    /// The network of processes that are to have one of their own.
    pub network: &'a NetworkOnDemand,
    /// Where waiting is told.
    pub progress: &'a dyn Progress,
    /// Ends waiting.
    pub cancel: &'a Cancel,
}

/// Runs a command or a shell in a failed step to its end; what it changes is thrown away. Each number that comes out of
/// `signals` is sent to it as a signal.
///
/// # Errors
/// A root without a shell; what stands in the way of running anything there.
pub fn enter(visit: Visit<'_>, streams: Streams, signals: &OwnedFd) -> Result<Ended, RunError> {
    let _in_use = visit.store.in_use()?;
    let mut op = visit.state.operation();
    op.args = match visit.command {
        [] => vec![shell(&op, &visit.snapshotter.view(visit.state.root())?)?],
        command => command.to_vec(),
    };
    op.env.extend(visit.env.iter().cloned());
    if let Some(user) = visit.user {
        user.clone_into(&mut op.user);
    }
    op.network = visit.network_mode.unwrap_or(op.network);
    let inputs: Vec<Input<'_>> = visit.state.inputs.iter().copied().map(Input::Snapshot).collect();
    let task = ExecTask {
        op: &op,
        inputs: &inputs,
        store: visit.store,
        snapshotter: visit.snapshotter,
        secrets: visit.secrets,
        agents: visit.agents,
        resources: visit.resources,
        network: visit.network,
        mounts: &LocalCacheMounts,
        progress: visit.progress,
        step: StepId(0),
        name: "builder debug",
        failed: None,
        cancel: visit.cancel,
    };
    executor::enter(&task, |spec| start(spec, streams, signals))
}

/// The shell that the step's command was a script of, if it is in the root; otherwise `/bin/sh`.
fn shell(op: &Exec, root: &Rootfs) -> Result<String, RunError> {
    let own = op.args.first().filter(|word| is_shell(word));
    let tried = own.map_or(SHELL, String::as_str);
    let found = [tried, SHELL].into_iter().find(|word| is_there(word, op, root));
    found.map(str::to_owned).ok_or_else(|| RunError::NoShell {
        tried: tried.to_owned(),
    })
}

fn is_shell(word: &str) -> bool {
    word.rsplit('/').next().is_some_and(|name| SHELLS.contains(&name))
}

/// Whether a program is in the root, along the step's `PATH` where its name has no slash.
fn is_there(word: &str, op: &Exec, root: &Rootfs) -> bool {
    let is_file = |path: &str| {
        let stat = ContainerPath::new(path).ok().and_then(|path| root.stat(&path).ok());
        stat.is_some_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
    };
    if word.contains('/') {
        return is_file(word);
    }
    let path = op
        .env
        .iter()
        .find_map(|pair| pair.strip_prefix("PATH="))
        .unwrap_or(PATH);
    path.split(':').any(|directory| is_file(&format!("{directory}/{word}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_are_known_by_name() {
        for word in ["/bin/sh", "bash", "/usr/local/bin/zsh"] {
            assert!(is_shell(word), "{word}");
        }
        for word in ["", "/bin/", "/usr/bin/python3", "/bin/shutdown", "sh/x"] {
            assert!(!is_shell(word), "{word}");
        }
    }
}
