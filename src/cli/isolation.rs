//! `--isolation`: how steps and containers are kept apart from the machine. The weaker way is never chosen here.

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::failure::Failure;
use crate::executor::sandbox::{Isolation, may_make_devices, missing_for_chroot};

/// The flag.
#[derive(Debug, Args)]
pub(super) struct IsolationArguments {
    /// How processes are kept apart from the machine: by namespaces and mounts (`default`, also called sandbox), or by
    /// chroot alone, which works in unprivileged containers and is weaker: see docs/sandbox.md.
    #[arg(long = "isolation", env = "BUILDER_ISOLATION", value_name = "WAY")]
    pub(super) way: Option<Way>,
}

/// What `--isolation` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    #[default]
    #[serde(alias = "sandbox")]
    #[value(alias = "sandbox")]
    Default,
    Chroot,
}

impl From<Way> for Isolation {
    fn from(way: Way) -> Self {
        match way {
            Way::Default => Isolation::Sandbox,
            Way::Chroot => Isolation::Chroot,
        }
    }
}

/// What users are to know before anything runs.
pub(super) fn remark(isolation: Isolation) -> Option<String> {
    const WEAKER: &str = "--isolation=chroot is weaker: processes share the network, the other processes and the kernel's \
                          settings with this container, have no /proc and /sys, and secrets are files on its disk while \
                          they run";
    const NO_DEVICES: &str = "; without CAP_MKNOD they have no devices, and /dev/null is an ordinary file";
    match isolation {
        Isolation::Sandbox => None,
        Isolation::Chroot if may_make_devices() => Some(WEAKER.into()),
        Isolation::Chroot => Some([WEAKER, NO_DEVICES].concat()),
    }
}

/// Refuses what cannot work.
pub(super) fn check_chroot() -> Result<(), Failure> {
    match missing_for_chroot().as_slice() {
        [] => Ok(()),
        missing => Err(Failure::environment(format!(
            "--isolation=chroot needs what this process does not have: {}",
            missing.join(", ")
        ))
        .hint("run it as root of a container with the usual capabilities")),
    }
}

/// What to do where there are neither mounts nor namespaces.
pub(super) fn way_out() -> String {
    match missing_for_chroot().as_slice() {
        [] => "--isolation=chroot needs none of these and is weaker: processes share network, processes and kernel \
               settings with this container (docs/sandbox.md, \"Without namespaces\")"
            .into(),
        missing => format!(
            "--isolation=chroot needs none of these, but what is missing here too: {}",
            missing.join(", ")
        ),
    }
}
