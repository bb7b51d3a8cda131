//! `builder build`.
//!
//! `arguments` is what may be typed, `contexts` and `dockerfile` where things come from, `options` and `platforms` what the
//! plan is told, `pins` what pins its sources, `failed_step` what becomes of one, `recording` what is kept to be read afterwards,
//! `reproduction` whether it comes out the same again, `tell` what is said of the result.

mod arguments;
mod attestations;
mod build_args;
mod calls;
mod contexts;
mod dockerfile;
mod failed_step;
mod options;
mod pins;
mod platforms;
mod recording;
mod reproduction;
mod revision;
mod squash;
mod tell;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

pub(in crate::cli) use arguments::Arguments;
pub(super) use arguments::{Entitlement, Network, Pull};
pub(super) use dockerfile::find_dockerfile;
pub(super) use options::extra_host;
pub(super) use pins::pin;
pub(super) use platforms::parse_annotation;

use self::arguments::{NoCacheFlag, OnError};
use self::dockerfile::DockerfileText;
use self::failed_step::KeptSteps;
use super::output::{Delivered, Delivery, Output};
use crate::cli::agents::RunningAgents;
use crate::cli::collection::keep_within_limits;
use crate::cli::diagnostic::SourceFile;
use crate::cli::disk::how_to_make_room;
use crate::cli::failure::{self, Failure};
use crate::cli::interrupt::{Watch, watch_signals};
use crate::cli::isolation;
use crate::cli::output;
use crate::cli::progress::{Display, Style, renderer};
use crate::cli::remote_caches;
use crate::cli::report;
use crate::cli::secrets::Secrets;
use crate::cli::session::{GlobalOptions, Session};
use crate::export::Annotation;
use crate::history::{BuildId, Finish, Recorder};
use crate::network::NetworkOnDemand;
use crate::oci::{Platform, Reference};
use crate::parser::displayable;
use crate::pipeline::{self, BuildError, BuildRequest, Built, CacheMountState, Forecast, Shape, Workshop};
use crate::planner::PlanOptions;
use crate::progress::Event;
use crate::push::{EarlyPush, LayerPush};
use crate::solver::Unshared;

pub(super) fn run(arguments: Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    let call = calls::wanted(&arguments);
    let mut asked = Asked::of(&arguments, call.is_some())?;
    if let Some(call) = call
        && let Some(dockerfile) = asked.dockerfile.take()
    {
        return calls::run(
            call,
            &arguments,
            global,
            dockerfile,
            asked.plan_of_first(),
            &asked.contexts,
        );
    }
    let style = if arguments.quiet {
        Style::Quiet
    } else {
        arguments.progress
    };
    at_work(&arguments, global, style, |desk| {
        let Desk { session, workshop, .. } = desk;
        let recorder = Recorder::new(
            workshop.store,
            recording::subject(&arguments, &asked),
            workshop.progress,
        );
        let kept = KeptSteps::new(workshop.store, &recorder, workshop.progress);
        let workshop = Workshop {
            progress: &recorder,
            failed: (arguments.on_error != OnError::Discard).then_some(&kept),
            ..workshop
        };
        let dockerfile = asked.fetch(&arguments, workshop).inspect_err(|failure| {
            recorder.finish(&Finish::Failed(failure.message().to_owned()));
        })?;
        if let Some(call) = call {
            return calls::run(
                call,
                &arguments,
                global,
                dockerfile,
                asked.plan_of_first(),
                &asked.contexts,
            );
        }
        let name = dockerfile.name.clone();
        let request = asked.request(&arguments, session, dockerfile)?;
        let text = displayable(&request.dockerfile);
        let source = SourceFile {
            name: &name,
            text: &text,
        };
        let built = match build_and_send(&arguments, session, &request, workshop) {
            Ok(built) => built,
            Err(error) => {
                recorder.finish(&recording::finish_of(&error));
                if arguments.explain {
                    recording::explain(&recorder, workshop.store);
                }
                let in_one_line = error.to_string();
                let failure = report::build_failure(&source, error);
                let room = failure::tells_of_full_disk(failure.message()).then(|| how_to_make_room(workshop.store));
                let rest = recording::where_the_rest_is(&recorder);
                let hints = failed_step::joined(room.into_iter().chain(rest));
                return Err(match (arguments.on_error, kept.first()) {
                    (OnError::Shell, Some(step)) => {
                        failed_step::open_shell(&step, desk, &failure.hinted(hints), &in_one_line)
                    }
                    (_, kept) => failure.hinted(failed_step::hints(hints, kept.as_ref())),
                });
            }
        };
        if arguments.reproduction.verify {
            let verified = verify(&arguments, style, &source, &request, &built, workshop);
            verified.inspect_err(|failure| recorder.finish(&Finish::Failed(failure.message().to_owned())))?;
        }
        for message in report::warning_lines(&source, &built.warnings) {
            workshop.progress.report(Event::Warning { message });
        }
        let sent = deliver(&arguments, session, &request, &built, workshop);
        let unshared = unshared(&built);
        recorder.finish(&match (&sent, &unshared) {
            (Ok(_), Ok(())) => Finish::Done(built.id),
            (Err(failure), _) | (_, Err(failure)) => Finish::Failed(failure.message().to_owned()),
        });
        if arguments.explain {
            recording::explain(&recorder, workshop.store);
        }
        let build = recorder.build();
        tell::tell(&arguments, &built, sent?.as_ref(), build.as_ref().map(BuildId::as_str))?;
        unshared.map(|()| ExitCode::SUCCESS)
    })
}

/// Builds once more, and names the image when it came out the same.
fn verify(
    arguments: &Arguments,
    style: Style,
    source: &SourceFile<'_>,
    request: &BuildRequest,
    built: &Built,
    workshop: Workshop<'_>,
) -> Result<(), Failure> {
    output::remark("building once more, to verify the result");
    let progress = renderer(style);
    let unwatched = Workshop {
        progress: &*progress,
        failed: None,
        ..workshop
    };
    let verification =
        pipeline::verify(request, unwatched, built).map_err(|error| report::build_failure(source, error))?;
    // What it draws ends before anything is said.
    drop(progress);
    reproduction::judge(arguments, source.name, built, &verification)?;
    for name in &names(arguments) {
        workshop.store.tag(name, built.id)?;
    }
    Ok(workshop.store.sync()?)
}

/// Fails where a cache that must not fail did: the image is there all the same.
fn unshared(built: &Built) -> Result<(), Failure> {
    let Some(Unshared { cache, reason }) = built.unshared.first() else {
        return Ok(());
    };
    let message = format!("the image is made, but {cache} did not get all results of this build: {reason}");
    Err(Failure::environment(message).hint("without ignore-error=false this is a warning"))
}

/// Builds, and sends layers meanwhile where the image is to be pushed. Not where remote caches
/// get them meanwhile: the image takes them from there, where both are in one registry.
fn build_and_send(
    arguments: &Arguments,
    session: &Session,
    request: &BuildRequest,
    workshop: Workshop<'_>,
) -> Result<Built, BuildError> {
    let outputs = outputs(arguments);
    // Steps' own layers are not sent where they become one.
    let apart = request.squash.is_none() && workshop.remotes.to.is_empty();
    let mut own = outputs.iter().filter(|_| apart);
    let Some((target, transport, form)) = own.find_map(|output| output.first_push(&arguments.tags)) else {
        return pipeline::build(request, workshop);
    };
    let client = transport.client(session, std::slice::from_ref(target), workshop.cancel);
    let push = LayerPush {
        client: &client,
        store: workshop.store,
        snapshotter: workshop.snapshotter,
        target,
        progress: workshop.progress,
        cancel: workshop.cancel,
    };
    let early = EarlyPush::default();
    let workshop = Workshop {
        layers: Some(&early),
        ..workshop
    };
    early.beside(push, form.new_layers(), || pipeline::build(request, workshop))
}

/// Writes, pushes and loads what was built, where that was asked for.
fn deliver(
    arguments: &Arguments,
    session: &Session,
    request: &BuildRequest,
    built: &Built,
    workshop: Workshop<'_>,
) -> Result<Option<Delivered>, Failure> {
    let contexts: Vec<PathBuf> = request.contexts.values().cloned().collect();
    let delivery = Delivery {
        session,
        built,
        tags: &arguments.tags,
        contexts: &contexts,
        progress: workshop.progress,
        cancel: workshop.cancel,
    };
    delivery.run(&outputs(arguments))
}

/// All places that the result goes to.
fn outputs(arguments: &Arguments) -> Vec<Output> {
    let push = arguments.push.then(Output::registry);
    let load = arguments.load.then(Output::engine);
    arguments.outputs.iter().cloned().chain(push).chain(load).collect()
}

/// The names that the image has in the store: its own, and those of outputs.
fn names(arguments: &Arguments) -> Vec<Reference> {
    let mut names = arguments.tags.clone();
    for name in arguments.outputs.iter().flat_map(Output::names_in_store) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Hands what a build with these arguments would do to `tell`, together with the Dockerfile.
pub(super) fn foresee(
    arguments: Arguments,
    global: &GlobalOptions,
    tell: impl FnOnce(&SourceFile<'_>, &Forecast) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut asked = Asked::of(&arguments, false)?;
    at_work(
        &arguments,
        global,
        Style::Quiet,
        |Desk { session, workshop, .. }| {
            let dockerfile = asked.fetch(&arguments, workshop)?;
            let name = dockerfile.name.clone();
            let request = asked.request(&arguments, session, dockerfile)?;
            let text = displayable(&request.dockerfile);
            let source = SourceFile {
                name: &name,
                text: &text,
            };
            let forecast =
                pipeline::foresee(&request, workshop).map_err(|error| report::build_failure(&source, error))?;
            tell(&source, &forecast)
        },
    )
}

/// What a command works at.
#[derive(Clone, Copy)]
struct Desk<'a> {
    session: &'a Session,
    workshop: Workshop<'a>,
    /// What `workshop` tells its progress.
    display: &'a dyn Display,
    /// What sets `workshop`'s token.
    signals: &'a Watch,
}

/// Opens what a build works with, and works.
fn at_work<T>(
    arguments: &Arguments,
    global: &GlobalOptions,
    style: Style,
    work: impl FnOnce(Desk<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let secrets = Secrets::new(&arguments.secrets)?;
    let mut session = Session::open_for_processes(global, &arguments.isolation)?;
    session.registries.reach(&arguments.registries)?;
    // From the first thing that is looked for to the last that is delivered.
    let in_use = session.store.in_use()?;
    let signals = watch_signals()?;
    let progress = renderer(style);
    let agents = RunningAgents::start(&arguments.ssh, &session.store)?;
    let (mut resources, warnings) = arguments.limits.resources()?;
    resources.isolation = session.isolation;
    resources.runtime = arguments.runtime.find(&session)?;
    for message in isolation::remark(session.isolation).into_iter().chain(warnings) {
        progress.report(Event::Warning { message });
    }
    let network = NetworkOnDemand::default();
    let puller = session.puller(&signals.cancel);
    let admission = arguments.sources.admission(&session.config.policy)?;
    let (from, to) = (&arguments.cache_from, &arguments.cache_to);
    let remotes = remote_caches::open(from, to, &arguments.build_args, &session, &signals.cancel)?;
    let workshop = Workshop {
        store: &session.store,
        remotes: &remotes,
        snapshotter: &session.snapshotter,
        admission: &admission,
        puller: &puller,
        secrets: &secrets,
        agents: &agents.sockets,
        resources: &resources,
        network: &network,
        layers: None,
        failed: None,
        progress: &*progress,
        cancel: &signals.cancel,
    };
    let done = work(Desk {
        session: &session,
        workshop,
        display: &*progress,
        signals: &signals,
    });
    drop(in_use);
    keep_within_limits(&session, &signals.cancel);
    done
}

/// What is to be built, as the arguments say it.
struct Asked {
    /// The Dockerfile, where it could be read before there was a store.
    dockerfile: Option<DockerfileText>,
    plan: PlanOptions,
    /// Directories, by name.
    contexts: BTreeMap<String, PathBuf>,
    platforms: Vec<Platform>,
    shape: Shape,
    annotations: Vec<Annotation>,
}

impl Asked {
    /// What comes on standard input is read once, after the program has become what it works as; unless `now`.
    fn of(arguments: &Arguments, now: bool) -> Result<Asked, Failure> {
        let local = contexts::is_directory(arguments)? && (now || !dockerfile::is_on_standard_input(arguments));
        let dockerfile = match local {
            true => Some(dockerfile::read(arguments)?),
            false => None,
        };
        let (plan, contexts) = options::plan_options(arguments)?;
        let platforms = platforms::platforms(arguments)?;
        let shape = platforms::shape(&platforms, &plan.build_args)?;
        let annotations = platforms::annotations(&arguments.annotations, &platforms, shape)?;
        for output in outputs(arguments) {
            output
                .check(&arguments.tags)
                .map_err(|reason| Failure::usage(format!("--output: {reason}")))?;
            platforms::check_annotations("--output", output.annotations(), &platforms, shape)?;
        }
        Ok(Asked {
            dockerfile,
            plan,
            contexts,
            platforms,
            shape,
            annotations,
        })
    }

    /// The Dockerfile, out of a context that is fetched where there is no other.
    fn fetch(&mut self, arguments: &Arguments, workshop: Workshop<'_>) -> Result<DockerfileText, Failure> {
        match self.dockerfile.take() {
            Some(dockerfile) => Ok(dockerfile),
            None => contexts::fetch(arguments, &mut self.plan, workshop),
        }
    }

    /// The plan that is looked at without building.
    fn plan_of_first(&self) -> PlanOptions {
        PlanOptions {
            platform: self.platforms.first().cloned(),
            ..self.plan.clone()
        }
    }

    fn request(
        self,
        arguments: &Arguments,
        session: &Session,
        dockerfile: DockerfileText,
    ) -> Result<BuildRequest, Failure> {
        Ok(BuildRequest {
            attestations: attestations::request(arguments, &dockerfile.name),
            pins: pins::pins(arguments, &dockerfile)?,
            dockerfile_path: dockerfile.path,
            dockerfile: dockerfile.bytes,
            contexts: self.contexts,
            modes: arguments
                .copy_mode
                .or(session.config.copy_mode)
                .unwrap_or_default()
                .into(),
            plan: self.plan,
            platforms: self.platforms,
            shape: self.shape,
            annotations: self.annotations,
            squash: arguments.squash.squash(),
            pull: arguments.pull.into(),
            // What is verified gets its names afterwards.
            names: match arguments.reproduction.verify {
                true => Vec::new(),
                false => names(arguments),
            },
            jobs: arguments.jobs.or(session.config.jobs).unwrap_or_else(default_jobs),
            variables: contexts::variables(),
            cache_mounts: match arguments.no_cache {
                Some(NoCacheFlag::Mounts) => CacheMountState::Anew,
                _ => CacheMountState::Kept,
            },
        })
    }
}

/// Steps that run at the same time: many more than cores, because steps wait for networks and disks.
fn default_jobs() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new((cores * 4).max(16)).unwrap_or(NonZeroUsize::MIN)
}
