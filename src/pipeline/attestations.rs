//! What is stated of a built image, for those who asked for it: made when its layers are known, before it is recorded.

use std::collections::BTreeMap;

use super::platforms::Plans;
use super::{BuildError, BuildRequest, Workshop, now};
use crate::attest::{BuildFacts, ConfigSource, ProvenanceOptions, SourceFile, image_purl, provenance};
use crate::export::Composed;
use crate::graph::{NetworkMode, Remote, Source, VertexId};
use crate::oci::{Descriptor, Digest, Platform, Timestamp, media_type};
use crate::planner::{ImageName, MainContext, NamedContext, NoCache, PlanOptions, ScanOptions, Scans};
use crate::solver::Solution;
use crate::store::{Attestation, Predicate, SnapshotId, StoreError};

/// What is to be stated; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct AttestationRequest {
    /// `--provenance`.
    pub provenance: Option<ProvenanceRequest>,
    /// `--sbom`.
    pub sbom: Option<SbomRequest>,
    /// The address of a main context that was fetched, as the user wrote it.
    pub address: Option<String>,
    /// What the Dockerfile is called, from the context's root.
    pub dockerfile: Option<String>,
    /// The revision that the main context is of: `source`, `revision`.
    pub vcs: BTreeMap<String, String>,
}

impl AttestationRequest {
    /// Whether nothing is to be stated.
    pub fn is_empty(&self) -> bool {
        self.provenance.is_none() && self.sbom.is_none()
    }
}

/// `--provenance`.
#[derive(Clone, Debug)]
pub struct ProvenanceRequest {
    /// What it is to say.
    pub options: ProvenanceOptions,
    /// What it is called beside exported files; `None` where it goes with images only.
    pub file: Option<String>,
}

/// `--sbom`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SbomRequest {
    /// Who looks for packages, and where.
    pub scan: ScanOptions,
    /// What it is called beside exported files; `None` where it goes with images only.
    pub file: Option<String>,
}

/// What is stated of an image, for those who write it as a file.
#[derive(Clone, Debug)]
pub struct Stated {
    /// What the file is called; `None` where it goes with images only.
    pub file: Option<String>,
    /// What is stated.
    pub predicate: Predicate,
}

/// One build, as far as what is stated of all of its images is the same.
pub(super) struct Witness<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) workshop: Workshop<'a>,
    started: i64,
    invocation: String,
}

/// One image of the build, whose layers are known.
pub(super) struct Subject<'a> {
    pub(super) plans: &'a Plans,
    pub(super) result: Option<VertexId>,
    pub(super) scans: &'a Scans,
    /// What is looked at for packages besides the result.
    pub(super) scanned: &'a BTreeMap<VertexId, Solution>,
    pub(super) snapshot: Option<SnapshotId>,
    pub(super) platform: &'a Platform,
    pub(super) epoch: Option<i64>,
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) composed: &'a Composed,
}

impl<'a> Witness<'a> {
    /// To be made when the build begins.
    pub(super) fn new(request: &'a BuildRequest, workshop: Workshop<'a>) -> Self {
        Self {
            request,
            workshop,
            started: now(),
            invocation: invocation(),
        }
    }

    /// States what was asked for.
    pub(super) fn state(&self, subject: &Subject<'_>) -> Result<Vec<Stated>, BuildError> {
        let asked = &self.request.attestations;
        let mut stated = Vec::new();
        if let Some(wanted) = &asked.sbom {
            stated.extend(self.sboms(wanted, subject)?);
        }
        if let Some(wanted) = &asked.provenance {
            stated.push(self.provenance(wanted, subject)?);
        }
        Ok(stated)
    }

    fn provenance(&self, wanted: &ProvenanceRequest, subject: &Subject<'_>) -> Result<Stated, StoreError> {
        let asked = &self.request.attestations;
        let puller = self.workshop.puller;
        let facts = BuildFacts {
            graph: &subject.plans.graph,
            result: subject.result,
            config: self.config_source(),
            args: arguments(&self.request.plan),
            dockerfile: SourceFile {
                name: asked.dockerfile.as_deref().unwrap_or("Dockerfile"),
                content: &self.request.dockerfile,
            },
            generated: subject.scans.generated,
            layers: self.layers(subject)?,
            vcs: asked.vcs.clone(),
            manifest_of: &|image| puller.manifest_of(&image.config),
            invocation: self.invocation.clone(),
            times: (Timestamp::from_unix(self.started), Timestamp::from_unix(now())),
            epoch: subject.epoch,
        };
        let content = provenance(&facts, &wanted.options);
        let kind = wanted.options.version.predicate_type();
        self.predicate(kind, &content, wanted.file.clone(), subject)
    }

    pub(super) fn names(&self, subject: &Subject<'_>) -> Vec<String> {
        let names = self.request.names.iter();
        names.map(|name| image_purl(name, subject.platform)).collect()
    }

    /// Keeps a predicate in the store.
    pub(super) fn predicate(
        &self,
        kind: &str,
        content: &[u8],
        file: Option<String>,
        subject: &Subject<'_>,
    ) -> Result<Stated, StoreError> {
        let written = self.workshop.store.write_blob(content)?;
        Ok(self.stated(kind, written, content.len() as u64, file, subject))
    }

    /// The same for a predicate of `size` bytes that is kept already.
    pub(super) fn stated(
        &self,
        kind: &str,
        content: Digest,
        size: u64,
        file: Option<String>,
        subject: &Subject<'_>,
    ) -> Stated {
        let (kind, subjects) = (kind.to_owned(), self.names(subject));
        Stated {
            file,
            predicate: Predicate {
                kind,
                content,
                size,
                subjects,
            },
        }
    }

    /// The image's layers as they are before anything compresses them, which may be differently each time.
    fn layers(&self, subject: &Subject<'_>) -> Result<Vec<Descriptor>, StoreError> {
        let store = self.workshop.store;
        let mut layers = Vec::new();
        for diff in &subject.composed.config.value().rootfs.diff_ids {
            let mut size = 0;
            if let Some((snapshot, epoch)) = store.snapshots_of_layer(*diff)?.into_iter().next() {
                size = store.diff_of(snapshot, epoch)?.map_or(0, |(_, size)| size);
            }
            layers.push(Descriptor::new(media_type::LAYER, diff.0, size));
        }
        Ok(layers)
    }

    fn config_source(&self) -> ConfigSource {
        let asked = &self.request.attestations;
        let digest = |digest: &Digest| Some(("sha256", digest.hex()));
        let digest = match &self.request.plan.main_context {
            MainContext::Directory | MainContext::Empty => None,
            MainContext::Source(source) => match source.as_ref() {
                Source::Git(git) if git.commit.len() == 64 => Some(("sha256", git.commit.clone())),
                Source::Git(git) => Some(("sha1", git.commit.clone())),
                Source::Http(file) => digest(&file.digest),
                Source::Archive(archive) => digest(&archive.digest),
                Source::Image(_) | Source::Local(_) => None,
            },
        };
        ConfigSource {
            uri: asked.address.clone(),
            digest,
            path: asked.dockerfile.clone(),
        }
    }
}

/// A name for this build that no other has.
fn invocation() -> String {
    let random = || getrandom::u64().unwrap_or_default();
    format!("{:016x}{:016x}", random(), random())
}

/// What the image's record is to say.
pub(super) fn recorded(stated: &[Stated]) -> Vec<Attestation> {
    let record = |stated: &Stated| Attestation::Made(stated.predicate.clone());
    stated.iter().map(record).collect()
}

/// What the user asked for, in the words of BuildKit's frontend.
fn arguments(plan: &PlanOptions) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (name, value) in &plan.build_args {
        args.insert(format!("build-arg:{name}"), value.clone());
    }
    for (name, value) in &plan.labels {
        args.insert(format!("label:{name}"), value.clone());
    }
    for (name, context) in &plan.named_contexts {
        // Where a directory lies on this machine is nobody's affair.
        let place = match context {
            NamedContext::Image(ImageName::Reference(image)) => format!("docker-image://{image}"),
            NamedContext::Image(ImageName::Layout(_)) => format!("oci-layout:{name}"),
            NamedContext::Scratch => "docker-image://scratch".to_owned(),
            NamedContext::Directory => format!("local:{name}"),
            NamedContext::Remote(Remote::Http(file)) => file.url.clone(),
            NamedContext::Remote(Remote::Git(git)) => git.remote.clone(),
        };
        args.insert(format!("context:{name}"), place);
    }
    if let Some(target) = &plan.target {
        args.insert("target".into(), target.clone());
    }
    match &plan.no_cache {
        NoCache::Never => {}
        NoCache::All => drop(args.insert("no-cache".into(), String::new())),
        NoCache::Stages(stages) => drop(args.insert("no-cache".into(), stages.join(","))),
    }
    match plan.network {
        NetworkMode::Default => {}
        NetworkMode::Host => drop(args.insert("force-network-mode".into(), "host".into())),
        NetworkMode::None => drop(args.insert("force-network-mode".into(), "none".into())),
    }
    let hosts: Vec<&str> = plan.extra_hosts.iter().map(|host| host.name.as_str()).collect();
    if !hosts.is_empty() {
        args.insert("add-hosts".into(), hosts.join(","));
    }
    args
}
