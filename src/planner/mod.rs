//! From what a Dockerfile says to what is to be computed: [`plan`] turns a parsed Dockerfile into a graph of operations
//! and the configuration of the image that they lead to.
//!
//! Owns stages and targets, the scope of ARG and ENV, the lowering of instructions to operations, the image's
//! configuration and history, and the build checks that need a scope. It touches neither disk, network nor environment:
//! what a base image is it asks of an [`ImageResolver`], and it imports `parser`, `oci` and `graph` alone.
//!
//! Behaviour, history texts and step names are those of BuildKit's Dockerfile frontend, so that images compare equal.

mod address;
mod budget;
mod checks;
mod environment;
mod epoch;
mod error;
mod expand;
mod frontend;
mod globals;
mod history;
mod images;
mod layout;
mod lower;
mod options;
mod outline;
mod path;
mod platforms;
mod ports;
mod purpose;
mod report;
mod scan;
mod scope;
mod signal;
mod sources;
mod stages;
mod steps;

pub use address::{AddressError, BareForm, file_address, git_address, is_url};
pub use error::{PlanError, PlanErrors, Problem};
pub use frontend::check_frontend;
pub use images::{ImageName, ImageRequest, ImageResolver, ResolveError, ResolvedBase};
pub use layout::{LayoutAddress, LayoutAddressError, layout_address};
pub use options::{Confinement, HostNetwork, MainContext, NamedContext, NoCache, PlanOptions};
pub use outline::{Outline, OutlinedArg, OutlinedMount};
pub use platforms::PlatformNames;
pub use purpose::{IgnoredPaths, Purpose};
pub use report::Warning;
pub use scan::{CORE, GENERATED, Generator, ScanOptions, Scans, extra_name};

use crate::graph::{Graph, VertexId};
use crate::oci::{ImageConfig, Timestamp};
use crate::parser::{Dockerfile, Stage};

use lower::{Lowered, Lowering};
use report::Report;
use sources::Sources;
use stages::StageTable;

/// What a build has to do.
#[derive(Debug)]
pub struct BuildPlan {
    /// The operations; only those that the target needs.
    pub graph: Graph,
    /// The vertex whose result is the image's file system; `None` for an image without layers.
    pub result: Option<VertexId>,
    /// The image's configuration. History is complete, one entry that is not `empty_layer` for each layer; `rootfs`
    /// holds the base image's layers alone, to which the exporter adds those of the graph. Without an epoch neither
    /// the configuration nor its new history entries have a `created`: the exporter knows when.
    pub config: ImageConfig,
    /// How many of the history's entries, at its end, are the Dockerfile's own: the others came with the base image.
    pub own_history: usize,
    /// `SOURCE_DATE_EPOCH` as it turned out from options, build arguments and the Dockerfile, seconds since 1970.
    pub epoch: Option<i64>,
    /// What is allowed but likely a mistake, in the order of the source: the violations that the parser saw, as far as
    /// the file's `# check=` does not silence them, and those that need a scope.
    pub warnings: Vec<Warning>,
    /// What is looked at for packages, where `options.scan` asks for it.
    pub scans: Scans,
    /// What the target takes; empty where the plan was not made for [`Purpose::Outline`].
    pub outline: Outline,
}

/// Plans the build of `options.target`, or of the last stage.
///
/// # Errors
/// All that is wrong with the stages that the target needs, each problem with its place: several at once, as far as one
/// does not follow from another.
pub fn plan(
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    resolver: &dyn ImageResolver,
) -> Result<BuildPlan, PlanErrors> {
    let mut report = Report::new(dockerfile, options);
    let mut globals = globals::evaluate(dockerfile, options, &mut report);
    if options.purpose == Purpose::Build {
        epoch::settle(&mut globals, dockerfile, options, resolver, &mut report);
    }
    checks::default_base_names(dockerfile, options, &mut report);
    let mut stages = StageTable::new(dockerfile, options, &globals, &mut report);
    let target = match stages.target(options.target.as_deref()) {
        Ok(target) => target,
        Err(error) => return Err(report.fail(error)),
    };
    let wanted = match (options.purpose, &options.target) {
        (Purpose::Check, None) => (0..=target).collect(),
        _ => vec![target],
    };
    let needed = steps::collect(&mut stages, &wanted, &globals, resolver, &mut report);
    let left_out: Vec<&Stage> = (dockerfile.stages.iter().zip(&needed.stages))
        .filter(|(_, steps)| steps.is_none())
        .map(|(stage, _)| stage)
        .collect();
    report.leave_out(&left_out);
    let is_needed: Vec<bool> = needed.stages.iter().map(Option::is_some).collect();
    let mut sources = Sources::default();
    if options.purpose == Purpose::Build && (options.has_remote_contexts() || needed.may_be_remote()) {
        let mut rehearsal = Report::new(dockerfile, options);
        let gathering = Lowering::new(options, &globals, &stages, needed.clone(), sources, &mut rehearsal);
        sources = gathering.gather(target);
        sources.resolve(resolver);
    }
    let Lowered {
        state,
        graph,
        scans,
        recorder,
    } = Lowering::new(options, &globals, &stages, needed, sources, &mut report).lower(target);
    checks::unused_build_args(dockerfile, options, &globals, &mut report);
    let escape = report.escape;
    let (state, warnings) = report.finish(state)?;
    let outline = match options.purpose {
        Purpose::Outline => recorder.outline(dockerfile, &globals, escape, target, &stages, &is_needed),
        Purpose::Build | Purpose::Check => Outline::default(),
    };
    let result = state.file_system;
    let base_history = state.base_history;
    let mut config = state.into_config();
    config.config.labels.extend(options.labels.clone());
    config.platform = platforms::of_image(options.platform.as_ref(), config.platform);
    config.created = globals.epoch.map(Timestamp::from_unix);
    Ok(BuildPlan {
        graph,
        result,
        own_history: config.history.len().saturating_sub(base_history),
        config,
        epoch: globals.epoch,
        warnings,
        scans,
        outline,
    })
}
