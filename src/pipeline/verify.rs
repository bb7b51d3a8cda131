//! Building once more, and what came out otherwise: which step, which file, which bytes.

use std::sync::Arc;

use super::{BuildError, BuildRequest, Built, Workshop, build};
use crate::export::{self, Aspect, Change, Difference, Extent, Place, Side, diff_id};
use crate::oci::{ImageConfig, Platform};
use crate::solver::StepReport;
use crate::store::SnapshotId;

/// Files of a step whose first differing bytes are looked for.
const MOST_PLACES: usize = 20;

/// What two builds of the same gave.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The later one of them.
    pub again: Built,
    /// The steps that left something else, in the order of the Dockerfile.
    pub steps: Vec<DivergentStep>,
    /// The configurations that differ, by their platforms.
    pub configurations: Vec<(Platform, ImageConfig, ImageConfig)>,
}

/// A step that left something else.
#[derive(Clone, Debug)]
pub struct DivergentStep {
    /// How it is called.
    pub name: Arc<str>,
    /// Its lines in the Dockerfile.
    pub lines: Option<(usize, usize)>,
    /// What of its layer is otherwise.
    pub files: Vec<DivergentFile>,
}

/// A path of a layer that is otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DivergentFile {
    /// In which way.
    pub difference: Difference,
    /// Where its content differs first, for the first of a step's files.
    pub place: Option<Place>,
}

impl Verification {
    /// Whether `first` and the later build are the same image.
    pub fn holds(&self, first: &Built) -> bool {
        self.again.id == first.id
    }

    /// Whether all that differs is when files were modified and when the image was made.
    pub fn differs_in_times_alone(&self) -> bool {
        let files = self.steps.iter().flat_map(|step| &step.files);
        let is_time = |aspect: &Aspect| matches!(aspect, Aspect::Modified(..));
        let mut changes = files.map(|file| &file.difference.change);
        changes.all(|change| matches!(change, Change::Changed(aspects) if aspects.iter().all(is_time)))
    }
}

/// Builds what gave `first` once more, and compares. What the request says of caches and names counts for it, too.
///
/// # Errors
/// Those of a build; layers that cannot be read.
pub fn verify(request: &BuildRequest, workshop: Workshop<'_>, first: &Built) -> Result<Verification, BuildError> {
    let again = build(request, workshop)?;
    let mut steps = Vec::new();
    if again.id != first.id {
        let epoch = first.images.first().and_then(|image| image.epoch);
        for (one, other) in first.steps.iter().zip(&again.steps) {
            steps.extend(divergent(one, other, epoch, workshop)?);
        }
    }
    let configurations = first.images.iter().zip(&again.images).filter_map(|(one, other)| {
        let (left, right) = (one.image.config.value(), other.image.config.value());
        (left != right).then(|| (one.platform.clone(), left.clone(), right.clone()))
    });
    Ok(Verification {
        configurations: configurations.collect(),
        again,
        steps,
    })
}

fn divergent(
    one: &StepReport,
    other: &StepReport,
    epoch: Option<i64>,
    workshop: Workshop<'_>,
) -> Result<Option<DivergentStep>, BuildError> {
    let (Some(left), Some(right)) = (one.snapshot, other.snapshot) else {
        return Ok(None);
    };
    let layer = |snapshot| diff_id(workshop.store, workshop.snapshotter, snapshot, epoch);
    if left == right || layer(left)? == layer(right)? {
        return Ok(None);
    }
    Ok(Some(DivergentStep {
        name: one.name.clone(),
        lines: one.lines,
        files: files(left, right, epoch, workshop)?,
    }))
}

fn files(
    left: SnapshotId,
    right: SnapshotId,
    epoch: Option<i64>,
    workshop: Workshop<'_>,
) -> Result<Vec<DivergentFile>, BuildError> {
    let side = |snapshot| Side {
        snapshot: Some(snapshot),
        epoch,
    };
    let differences = export::compare(workshop.snapshotter, side(left), side(right), Extent::Layer)?;
    let mut files = Vec::with_capacity(differences.len());
    for (number, difference) in differences.into_iter().enumerate() {
        let holds_other = matches!(&difference.change, Change::Changed(aspects) if aspects.contains(&Aspect::Content));
        let place = match holds_other && number < MOST_PLACES {
            true => export::first_difference(workshop.snapshotter, left, right, &difference.path)?,
            false => None,
        };
        files.push(DivergentFile { difference, place });
    }
    Ok(files)
}
