//! What the caller of [`plan`](super::plan) decides.

use std::collections::BTreeMap;

use crate::graph::{ExtraHost, NetworkMode, Remote, Source};
use crate::oci::Platform;

use super::images::ImageName;
use super::platforms::PlatformNames;
use super::purpose::{IgnoredPaths, Purpose};
use super::scan::ScanOptions;

/// What the command line says about a plan.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// `--target`, in any case; `None` for the last stage.
    pub target: Option<String>,
    /// `--build-arg`, by name. One without a value must have been given the caller's own, or be left out.
    pub build_args: BTreeMap<String, String>,
    /// `--platform`; `None` for the platform that the builder runs on, or that of a base image which has one alone.
    pub platform: Option<Platform>,
    /// The platform that the builder runs on: `BUILDPLATFORM`.
    pub build_platform: Platform,
    /// Whether steps name their platforms: where there are several.
    pub platform_names: PlatformNames,
    /// `--label`, set on the image after all of the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `SOURCE_DATE_EPOCH`, seconds since 1970: the moment written into configuration and history. A build argument of
    /// that name comes before it, the default of a global ARG after it.
    pub epoch: Option<i64>,
    /// `--network`: the network of RUN instructions that name none.
    pub network: NetworkMode,
    /// `--add-host`.
    pub extra_hosts: Vec<ExtraHost>,
    /// The host name that RUN sees.
    pub hostname: Option<String>,
    /// What COPY and ADD read from where nothing else is named.
    pub main_context: MainContext,
    /// `--build-context`, by name, which is lower-case.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--allow network.host`, or `--network=host`.
    pub host_network: HostNetwork,
    /// `--allow security.insecure`.
    pub confinement: Confinement,
    /// What the plan is made for.
    pub purpose: Purpose,
    /// What the main context's ignore file leaves out.
    pub ignored: IgnoredPaths,
    /// Who looks for packages; `None` where nobody does.
    pub scan: Option<ScanOptions>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            platform: None,
            build_platform: Platform::host(),
            platform_names: PlatformNames::Hidden,
            labels: BTreeMap::new(),
            no_cache: NoCache::Never,
            epoch: None,
            network: NetworkMode::Default,
            extra_hosts: Vec::new(),
            hostname: None,
            main_context: MainContext::Directory,
            named_contexts: BTreeMap::new(),
            host_network: HostNetwork::Refused,
            confinement: Confinement::Required,
            purpose: Purpose::Build,
            ignored: IgnoredPaths::default(),
            scan: None,
        }
    }
}

impl PlanOptions {
    /// The platform that the image is for.
    pub fn target_platform(&self) -> &Platform {
        self.platform.as_ref().unwrap_or(&self.build_platform)
    }

    /// Whether a named context lies elsewhere.
    pub(super) fn has_remote_contexts(&self) -> bool {
        let mut contexts = self.named_contexts.values();
        contexts.any(|context| matches!(context, NamedContext::Remote(_)))
    }
}

/// Which steps run although a result is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum NoCache {
    /// None.
    #[default]
    Never,
    /// All: `--no-cache`.
    All,
    /// Those of the named stages: `--no-cache-filter`. Names are compared without regard to case.
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether the steps of the stage called `name` run in any case; an empty name is a stage without one.
    pub(super) fn covers(&self, name: &str) -> bool {
        match self {
            NoCache::Never => false,
            NoCache::All => true,
            NoCache::Stages(names) => !name.is_empty() && names.iter().any(|filter| filter.eq_ignore_ascii_case(name)),
        }
    }
}

/// Whether RUN may ask for `--network=host`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HostNetwork {
    /// It may not.
    #[default]
    Refused,
    /// It may.
    Allowed,
}

/// Whether RUN may ask for `--security=insecure`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Confinement {
    /// It may not.
    #[default]
    Required,
    /// It may.
    Optional,
}

/// What a `--build-context` stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamedContext {
    /// `docker-image://reference`, `oci-layout://directory`.
    Image(ImageName),
    /// `docker-image://scratch`.
    Scratch,
    /// A directory of the user's; the executor knows it by the context's name.
    Directory,
    /// A file behind a URL, or a git repository.
    Remote(Remote),
}

/// What the main context is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum MainContext {
    /// A directory of the user's.
    #[default]
    Directory,
    /// Something that was fetched.
    Source(Box<Source>),
    /// Nothing: the Dockerfile came alone.
    Empty,
}
