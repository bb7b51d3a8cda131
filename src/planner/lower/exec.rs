//! RUN.

use crate::graph::{Exec, Mount, MountKind, NetworkMode, Op, SecurityMode, VertexId};
use crate::parser::{Command, Heredoc, Run, Spanned};

use super::super::error::{PlanError, Problem};
use super::super::history::{self, Layer};
use super::super::options::{Confinement, HostNetwork};
use super::super::path;
use super::super::steps::Step;
use super::mounts::Mounts;
use super::{Lowering, StageState, shown};

/// Where the script of `RUN <<EOF` with a `#!` line is mounted.
const PIPES: &str = "/dev/pipes";
const SCRIPT_MODE: u32 = 0o755;
/// The build argument that names the host.
const HOSTNAME: &str = "BUILDKIT_SANDBOX_HOSTNAME";
/// Where programs look for an agent's socket.
const AGENT_SOCKET: &str = "SSH_AUTH_SOCK";
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// What a RUN starts: the words, and the script that its only heredoc may be.
struct Start {
    args: Vec<String>,
    script: Option<Mount>,
}

impl Lowering<'_, '_> {
    pub(super) fn run(&mut self, state: &mut StageState, step: &Step<'_>, run: &Run) -> Result<(), PlanError> {
        if let Some(device) = run.devices.first() {
            let problem = Problem::Unsupported {
                feature: "RUN --device".into(),
            };
            return Err(problem.at(device.span));
        }
        let network = self.network(run.network.as_ref())?;
        let security = self.security(run.security.as_ref())?;
        let Start { args, script } = start(state, run)?;
        let mut inputs: Vec<VertexId> = state.file_system.into_iter().collect();
        let base = state.file_system.map(|_| 0);
        let Some(mut mounts) = self.mounts(state, step, run, &mut inputs)? else {
            return Ok(()); // What a mount comes from is in error, and reported.
        };
        mounts.list.extend(script);
        let text = history::run(&args, &state.build_args, &state.scope);
        let exec = Exec {
            base,
            args,
            env: environment(state, &mounts),
            working_dir: state.working_dir().to_owned(),
            user: state.config.config.user.clone(),
            hostname: self.hostname(),
            network,
            security,
            mounts: mounts.list,
            extra_hosts: self.options.extra_hosts.clone(),
            proxy_env: self.proxies(),
            platform: state.platform.clone(),
        };
        let label = state.label(step, &format!("{}{}", shown(step), summary(run)));
        self.add(state, step, Op::Exec(exec), inputs, label)?;
        self.record(state, step, text, Layer::One)
    }

    fn network(&self, value: Option<&Spanned<String>>) -> Result<NetworkMode, PlanError> {
        let Some(value) = value else {
            return Ok(self.options.network);
        };
        let problem = match value.value.as_str() {
            "default" => return Ok(self.options.network),
            "none" => return Ok(NetworkMode::None),
            "host" if self.options.host_network == HostNetwork::Allowed => return Ok(NetworkMode::Host),
            "host" => Problem::NotAllowed {
                feature: "RUN --network=host",
                allow: "--allow network.host",
            },
            other => Problem::FlagValue {
                flag: "--network",
                value: other.to_owned(),
                expected: "default, none or host",
            },
        };
        Err(problem.at(value.span))
    }

    fn security(&self, value: Option<&Spanned<String>>) -> Result<SecurityMode, PlanError> {
        let Some(value) = value else {
            return Ok(SecurityMode::Sandbox);
        };
        let problem = match value.value.as_str() {
            "sandbox" => return Ok(SecurityMode::Sandbox),
            "insecure" if self.options.confinement == Confinement::Optional => return Ok(SecurityMode::Insecure),
            "insecure" => Problem::NotAllowed {
                feature: "RUN --security=insecure",
                allow: "--allow security.insecure",
            },
            other => Problem::FlagValue {
                flag: "--security",
                value: other.to_owned(),
                expected: "sandbox or insecure",
            },
        };
        Err(problem.at(value.span))
    }

    fn hostname(&self) -> Option<String> {
        self.options
            .hostname
            .clone()
            .or_else(|| self.globals.build_args.get(HOSTNAME).cloned())
    }

    /// The proxies that build arguments name, each in capital and in small letters, because programs look for either.
    /// Where both are given, the one in small letters counts.
    pub(super) fn proxies(&self) -> Vec<String> {
        let given = |proxy: &str| {
            let matches = |(name, _): &(&String, &String)| name.eq_ignore_ascii_case(proxy);
            let last = self.globals.build_args.iter().rfind(matches);
            last.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        let both = |proxy: &str| {
            let value = given(proxy)?;
            Some([
                format!("{}={value}", proxy.to_ascii_uppercase()),
                format!("{proxy}={value}"),
            ])
        };
        PROXIES.into_iter().filter_map(both).flatten().collect()
    }
}

/// The words of a command. A heredoc that stands alone is the shell's script, or, with a `#!` line, a program; beside
/// other words heredocs are the shell's own business.
fn start(state: &StageState, run: &Run) -> Result<Start, PlanError> {
    let line = match &run.command {
        Command::Exec(words) => {
            return Ok(Start {
                args: words.clone(),
                script: None,
            });
        }
        Command::Shell(line) => line,
    };
    let (line, script) = match run.heredocs.as_slice() {
        [] => (line.clone(), None),
        [only] if stands_alone(line, only) && only.content().starts_with("#!") => {
            let target = path::clean(&format!("{PIPES}/{}", only.name));
            if target.rsplit_once('/').is_none_or(|(directory, _)| directory != PIPES) {
                return Err(Problem::HeredocName(only.name.clone()).at(only.span));
            }
            let content = only.content().into_owned().into_bytes();
            let kind = MountKind::File {
                content,
                mode: SCRIPT_MODE,
            };
            (target.clone(), Some(Mount { target, kind }))
        }
        [only] if stands_alone(line, only) => (only.content().into_owned(), None),
        several => {
            // As they stand in the file: the shell takes the tabs away itself.
            let with_body = |text: String, heredoc: &Heredoc| format!("{text}\n{}{}", heredoc.body, heredoc.name);
            (several.iter().fold(line.clone(), with_body), None)
        }
    };
    Ok(Start {
        args: state.in_shell(&line),
        script,
    })
}

/// Whether a line is the opening of one heredoc and nothing else: `<<EOF`, `3<<-"EOF"`, `<< EOF`.
fn stands_alone(line: &str, heredoc: &Heredoc) -> bool {
    let line = line.trim().trim_start_matches(|digit: char| digit.is_ascii_digit());
    let Some(word) = line.strip_prefix("<<") else {
        return false;
    };
    let word = word.strip_prefix('-').unwrap_or(word).trim_start();
    let unquoted: String = word
        .chars()
        .filter(|letter| !matches!(letter, '"' | '\'' | '\\'))
        .collect();
    let quoted = unquoted.len() != word.len();
    unquoted == heredoc.name && (quoted || !word.contains(char::is_whitespace))
}

/// What is shown behind the line of a RUN with a heredoc: its first line.
fn summary(run: &Run) -> String {
    let [only] = run.heredocs.as_slice() else {
        return String::new();
    };
    match &run.command {
        Command::Shell(line) if stands_alone(line, only) => {
            let content = only.content();
            let mut lines = content.trim().lines();
            let first = lines.next().unwrap_or_default();
            let more = if lines.next().is_some() { "..." } else { "" };
            format!(" ({first}{more})")
        }
        _ => String::new(),
    }
}

fn environment(state: &StageState, mounts: &Mounts) -> Vec<String> {
    let mut env = state.scope.entries();
    if let Some(socket) = &mounts.agent
        && state.scope.get(AGENT_SOCKET).is_none()
    {
        env.push(format!("{AGENT_SOCKET}={socket}"));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::Span;

    #[test]
    fn a_heredoc_alone_is_told_from_one_beside_words() {
        let heredoc = |name: &str| Heredoc {
            name: name.into(),
            descriptor: 0,
            body: String::new(),
            expand: true,
            strip_tabs: false,
            span: Span::default(),
        };
        for (line, name) in [
            ("<<EOF", "EOF"),
            ("3<<-\"EOF\"", "EOF"),
            ("<< EOF", "EOF"),
            ("<<'a b'", "a b"),
        ] {
            assert!(stands_alone(line, &heredoc(name)), "{line}");
        }
        for (line, name) in [
            ("<<EOF bash", "EOF"),
            ("cat <<EOF", "EOF"),
            ("<<EOF && x", "EOF"),
            ("<<<EOF", "EOF"),
        ] {
            assert!(!stands_alone(line, &heredoc(name)), "{line}");
        }
    }
}
