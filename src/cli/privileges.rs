//! What a container may do: `--cap-add`, `--cap-drop`, `--security-opt`, as docker writes them.

use std::str::FromStr;

use clap::Args;

use super::failure::Failure;
use crate::executor::sandbox::{Capabilities, NewPrivileges};
use crate::run::Privileges;

/// The flags.
#[derive(Debug, Args)]
pub(super) struct PrivilegeArguments {
    /// Give the container a capability besides docker's usual fourteen, such as `NET_ADMIN`; ALL for every one but
    /// `SYS_PTRACE`.
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away from the container; ALL for every one.
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// `no-new-privileges`: setuid programs and file capabilities give nothing.
    #[arg(long = "security-opt", value_name = "OPTION")]
    security_opts: Vec<SecurityOption>,
}

impl PrivilegeArguments {
    /// As a container takes them.
    ///
    /// # Errors
    /// A capability that there is not.
    pub(super) fn privileges(&self) -> Result<Privileges, Failure> {
        let changed = !(self.cap_add.is_empty() && self.cap_drop.is_empty());
        let capabilities = match changed {
            true => Some(Capabilities::changed(&self.cap_add, &self.cap_drop).map_err(|name| {
                Failure::usage(format!("`{name}` is no capability that a container can be given")).hint(
                    "capabilities(7) lists them; ALL is every one but SYS_PTRACE, with which the sandbox could be left",
                )
            })?),
            false => None,
        };
        let denied = self.security_opts.last().is_some_and(|SecurityOption(denied)| *denied);
        Ok(Privileges {
            capabilities,
            new_privileges: if denied {
                NewPrivileges::Deny
            } else {
                NewPrivileges::Allow
            },
        })
    }
}

/// Whether new privileges are denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SecurityOption(bool);

impl FromStr for SecurityOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = text
            .strip_prefix("no-new-privileges")
            .map(|rest| rest.trim_start_matches([':', '=']));
        match value {
            Some("" | "true") => Ok(Self(true)),
            Some("false") => Ok(Self(false)),
            _ => Err("no-new-privileges is the one option that there is".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_dockers() {
        for (text, denied) in [
            ("no-new-privileges", true),
            ("no-new-privileges:false", false),
            ("no-new-privileges=true", true),
        ] {
            assert_eq!(text.parse(), Ok(SecurityOption(denied)));
        }
        assert!("seccomp=unconfined".parse::<SecurityOption>().is_err());
        assert!("no-new-privileges:maybe".parse::<SecurityOption>().is_err());
    }
}
