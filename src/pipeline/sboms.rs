//! SBOMs of a built image: what the builder finds itself in the result, in stages and in the context, or what a generator
//! found there.

use super::attestations::{SbomRequest, Stated, Subject, Witness};
use super::inventory::layers;
use super::{BuildError, Workshop};
use crate::attest::sbom::{self, Findings, KnownDocument};
use crate::export::{ExportError, LARGEST_PREDICATE};
use crate::graph::{Op, Source};
use crate::oci::attestation::SPDX;
use crate::oci::{ChainId, DiffId, Digest, Reference, Timestamp};
use crate::planner::{CORE, GENERATED, Generator, extra_name};
use crate::progress::Event;
use crate::snapshot::ContainerPath;
use crate::store::{Predicate, SnapshotId};

/// How the names of documents end.
const ENDING: &str = ".spdx.json";

/// What one of the builder's own documents is of.
struct Place<'a> {
    /// What the document is called.
    name: String,
    /// What messages call it.
    shown: String,
    purls: Vec<String>,
    /// The layers that its files may be of, lowest first.
    layers: &'a [DiffId],
    snapshot: Option<SnapshotId>,
    file: Option<String>,
}

impl Place<'_> {
    /// What stands for all that makes its document this one, but for the files.
    fn identity(&self, subject: &Subject<'_>) -> Digest {
        let parts = (&self.name, &self.purls, subject.created, self.layers);
        Digest::of(&serde_json::to_vec(&parts).expect("texts and numbers have no failing serialisers"))
    }
}

impl Witness<'_> {
    /// What is in the image; the first is of the result.
    pub(super) fn sboms(&self, wanted: &SbomRequest, subject: &Subject<'_>) -> Result<Vec<Stated>, BuildError> {
        match &wanted.scan.generator {
            Some(generator) => self.generated(wanted, generator, subject),
            None => self.found(wanted, subject),
        }
    }

    /// What the builder finds.
    fn found(&self, wanted: &SbomRequest, subject: &Subject<'_>) -> Result<Vec<Stated>, BuildError> {
        let name = self.request.names.first().map(Reference::familiar);
        let name = name.unwrap_or_else(|| subject.platform.to_string());
        let result = Place {
            name: name.clone(),
            shown: subject.platform.to_string(),
            purls: self.names(subject),
            layers: &subject.composed.config.value().rootfs.diff_ids,
            snapshot: self.files_of(subject)?,
            file: wanted.file.clone(),
        };
        let mut stated = vec![self.document(&result, subject)?];
        for (extra, vertex) in &subject.scans.extras {
            let own = extra_name(extra);
            let place = Place {
                name: format!("{name} {own}"),
                shown: format!("{extra} ({})", subject.platform),
                purls: Vec::new(),
                layers: &[],
                snapshot: subject.scanned.get(vertex).and_then(|solution| solution.snapshot),
                file: wanted.file.is_some().then(|| format!("{own}{ENDING}")),
            };
            stated.push(self.document(&place, subject)?);
        }
        Ok(stated)
    }

    fn document(&self, place: &Place<'_>, subject: &Subject<'_>) -> Result<Stated, BuildError> {
        let Workshop { store, snapshotter, .. } = self.workshop;
        let identity = place.identity(subject);
        let top = place.snapshot.map(|snapshot| store.snapshot(snapshot)).transpose()?;
        let known = Findings::read(top.flatten().and_then(|top| top.findings()).as_deref());
        if let Some(known) = known.document(&identity)
            && store.has_blob(&known.content)?
        {
            self.tell_of(place, &known.warnings, known.size);
            return Ok(self.stated(SPDX, known.content, known.size, place.file.clone(), subject));
        }
        let layers = layers(store, place.snapshot, place.layers)?;
        let view = snapshotter.view(place.snapshot).map_err(ExportError::from)?;
        let inventory = sbom::scan(&view, &layers.files);
        let document = sbom::document(
            &inventory,
            &sbom::Subject {
                name: place.name.clone(),
                purls: place.purls.clone(),
                created: Timestamp::from_unix(subject.created),
            },
        );
        let stated = self.predicate(SPDX, &document, place.file.clone(), subject)?;
        let Predicate { content, size, .. } = stated.predicate;
        self.tell_of(place, &inventory.warnings, size);
        if let Some(top) = layers.files.last() {
            let warnings = inventory.warnings;
            let made = KnownDocument {
                content,
                size,
                warnings,
            };
            top.known.learn_document(identity, made);
        }
        layers.remember();
        Ok(stated)
    }

    /// What is to be told of a document, whenever it was made.
    fn tell_of(&self, place: &Place<'_>, warnings: &[String], size: u64) {
        let shown = &place.shown;
        for warning in warnings {
            self.warn(format!("the SBOM for {shown} is not whole: {warning}"));
        }
        if size > LARGEST_PREDICATE {
            self.warn(format!(
                "the SBOM for {shown} has {size} bytes; not every reader takes that much"
            ));
        }
    }

    fn warn(&self, message: String) {
        self.workshop.progress.report(Event::Warning { message });
    }

    /// What a generator found.
    fn generated(
        &self,
        wanted: &SbomRequest,
        generator: &Generator,
        subject: &Subject<'_>,
    ) -> Result<Vec<Stated>, BuildError> {
        let Workshop { store, snapshotter, .. } = self.workshop;
        let broken = |source| BuildError::Generated {
            generator: Box::new(generator.image.clone()),
            source,
        };
        let written = subject.scans.generated.and_then(|vertex| subject.scanned.get(&vertex));
        let written = written.and_then(|solution| solution.snapshot);
        let view = snapshotter.view(written).map_err(ExportError::from)?;
        let directory = ContainerPath::new(GENERATED).expect("no NUL byte");
        let documents = sbom::generated(&view, &directory, ENDING, LARGEST_PREDICATE).map_err(broken)?;
        let layers = layers(
            store,
            self.files_of(subject)?,
            &subject.composed.config.value().rootfs.diff_ids,
        )?;
        let core = format!("{CORE}{ENDING}");
        for ignored in &documents.ignored {
            self.warn(format!(
                "`{}` wrote {ignored}, which is no SBOM by its name",
                generator.image.familiar()
            ));
        }
        // The result's comes first, as in BuildKit: who shows one document shows this.
        let (own, extras): (Vec<_>, Vec<_>) = documents.found.into_iter().partition(|document| document.name == core);
        let own = own
            .into_iter()
            .map(|document| (wanted.file.clone(), document.with_layers(&layers.files)));
        let extras = extras.into_iter().map(|document| {
            let file = wanted.file.is_some().then(|| document.name.clone());
            (file, document)
        });
        let state = |(file, document): (_, sbom::GeneratedDocument)| {
            Ok(self.predicate(SPDX, &document.bytes(), file, subject)?)
        };
        own.chain(extras).map(state).collect()
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
}
