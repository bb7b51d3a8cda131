//! What is stated of a built image, for those who asked for it: made when its layers are known, before it is recorded.

use std::collections::BTreeMap;

use super::inventory::inventory;
use super::platforms::Plans;
use super::{BuildError, BuildRequest, Workshop, now};
use crate::attest::sbom;
use crate::attest::{BuildFacts, ConfigSource, ProvenanceOptions, SourceFile, image_purl, provenance};
use crate::export::{Composed, LARGEST_PREDICATE};
use crate::graph::{NetworkMode, Op, Remote, Source, VertexId};
use crate::oci::attestation::SPDX;
use crate::oci::{ChainId, Descriptor, Digest, Platform, Reference, Timestamp, media_type};
use crate::planner::{ImageName, MainContext, NamedContext, NoCache, PlanOptions};
use crate::progress::Event;
use crate::store::{Attestation, Predicate, SnapshotId, StoreError};

/// How BuildKit's arguments begin that want stages and contexts scanned.
const SCANS: &str = "BUILDKIT_SBOM_SCAN_";

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
            stated.push(self.sbom(wanted, subject)?);
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

    /// What is in the image.
    fn sbom(&self, wanted: &SbomRequest, subject: &Subject<'_>) -> Result<Stated, BuildError> {
        let Workshop {
            store,
            snapshotter,
            progress,
            ..
        } = self.workshop;
        let snapshot = self.files_of(subject)?;
        if self.asks_for_more_scans() {
            let message = "BUILDKIT_SBOM_SCAN_STAGE and BUILDKIT_SBOM_SCAN_CONTEXT do nothing here: the SBOM is of the result alone";
            progress.report(Event::Warning {
                message: message.to_owned(),
            });
        }
        let inventory = inventory(store, snapshotter, snapshot, subject.composed.config.value())?;
        for warning in &inventory.warnings {
            let message = format!("the SBOM for {} is not whole: {warning}", subject.platform);
            progress.report(Event::Warning { message });
        }
        let purls = self.names(subject);
        let document = sbom::document(
            &inventory,
            &sbom::Subject {
                name: self
                    .request
                    .names
                    .first()
                    .map_or_else(|| subject.platform.to_string(), Reference::familiar),
                purls,
                created: Timestamp::from_unix(subject.created),
            },
        );
        if document.len() as u64 > LARGEST_PREDICATE {
            let message = format!(
                "the SBOM for {} has {} bytes; not every reader takes that much",
                subject.platform,
                document.len()
            );
            progress.report(Event::Warning { message });
        }
        Ok(self.predicate(SPDX, &document, wanted.file.clone(), subject)?)
    }

    /// Whether the build arguments or the Dockerfile want stages or the context scanned.
    fn asks_for_more_scans(&self) -> bool {
        let asks = |(name, value): (&String, &String)| name.starts_with(SCANS) && value != "false";
        let BuildRequest { dockerfile, plan, .. } = self.request;
        let mut pieces = dockerfile.windows(SCANS.len());
        plan.build_args.iter().any(asks) || pieces.any(|piece| piece == SCANS.as_bytes())
    }

    /// The image's files. An image that adds nothing to its base may not have been unpacked.
    fn files_of(&self, subject: &Subject<'_>) -> Result<Option<SnapshotId>, BuildError> {
        let Workshop {
            store,
            puller,
            snapshotter,
            progress,
            cancel,
            ..
        } = self.workshop;
        if subject.snapshot.is_some() {
            return Ok(subject.snapshot);
        }
        let Some(chain) = ChainId::of(&subject.composed.config.value().rootfs.diff_ids) else {
            return Ok(None);
        };
        if let Some(snapshot) = store.snapshot_of_chain(chain)? {
            return Ok(Some(snapshot));
        }
        match subject.result.map(|result| &subject.plans.graph[result].op) {
            Some(Op::Source(Source::Image(image))) => Ok(puller.ensure_layers(snapshotter, image, progress, cancel)?),
            _ => Ok(None),
        }
    }

    fn names(&self, subject: &Subject<'_>) -> Vec<String> {
        let names = self.request.names.iter();
        names.map(|name| image_purl(name, subject.platform)).collect()
    }

    /// Keeps a predicate in the store.
    fn predicate(
        &self,
        kind: &str,
        content: &[u8],
        file: Option<String>,
        subject: &Subject<'_>,
    ) -> Result<Stated, StoreError> {
        Ok(Stated {
            file,
            predicate: Predicate {
                kind: kind.to_owned(),
                content: self.workshop.store.write_blob(content)?,
                size: content.len() as u64,
                subjects: self.names(subject),
            },
        })
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
