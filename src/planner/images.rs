//! Base images: how the planner asks for them, and what it was told.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::graph::{ImageSource, Remote, Source};
use crate::oci::{ImageConfig, Platform, Reference};
use crate::parser::Span;

use super::error::{PlanError, Problem};
use super::layout::LayoutAddress;
use super::purpose::Purpose;
use super::report::Report;

/// By what an image is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ImageName {
    /// Its name, in the local store or a registry.
    Reference(Reference),
    /// Where it lies.
    Layout(LayoutAddress),
}

impl ImageName {
    /// As a person would write it.
    pub fn familiar(&self) -> String {
        match self {
            ImageName::Reference(reference) => reference.familiar(),
            ImageName::Layout(layout) => layout.to_string(),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageName::Reference(reference) => reference.fmt(f),
            ImageName::Layout(layout) => layout.fmt(f),
        }
    }
}

/// An image that the plan needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageRequest {
    /// Which.
    pub name: ImageName,
    /// For which platform.
    pub platform: Platform,
    /// Where the Dockerfile names it first; `None` for one that the command line names: the generator of SBOMs.
    pub span: Option<Span>,
}

/// An image that was found.
#[derive(Clone, PartialEq, Debug)]
pub struct ResolvedBase {
    /// Where its layers come from.
    pub source: ImageSource,
    /// Its configuration.
    pub config: ImageConfig,
}

/// Why an image was not found.
pub type ResolveError = Box<dyn std::error::Error + Send + Sync>;

/// Finds what comes from outside: images in the local store and in registries, files and repositories.
pub trait ImageResolver {
    /// One answer for each request, in order. Called once with all that the stages name, and again only where ONBUILD
    /// triggers of these images name more.
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>>;

    /// What URLs and repositories stand for: one answer for each request, in order. Called once, where there are any.
    fn resolve_sources(&self, requests: &[Remote]) -> Vec<Result<Source, ResolveError>> {
        let nobody = |_| Err("this resolver finds images alone".into());
        requests.iter().map(nobody).collect()
    }

    /// When what was found was made, in seconds since 1970; `None` where nobody knows.
    ///
    /// # Errors
    /// When it cannot be fetched.
    fn moment(&self, _: &Source) -> Result<Option<i64>, ResolveError> {
        Ok(None)
    }
}

fn not_found(request: &ImageRequest, similar: Option<String>, source: ResolveError) -> PlanError {
    let name = Box::new(request.name.clone());
    let problem = match request.span {
        Some(_) => Problem::BaseImage { name, similar, source },
        None => Problem::Generator { name, source },
    };
    PlanError {
        problem,
        span: request.span,
    }
}

/// The images of a plan.
#[derive(Clone, Debug, Default)]
pub(super) struct Images {
    found: HashMap<(ImageName, Platform), ResolvedBase>,
    known: HashSet<(ImageName, Platform)>,
    requests: Vec<ImageRequest>,
    asked: usize,
}

impl Images {
    /// Notes that an image is needed.
    pub(super) fn request(&mut self, name: &ImageName, platform: &Platform, span: Option<Span>) {
        if self.known.insert((name.clone(), platform.clone())) {
            self.requests.push(ImageRequest {
                name: name.clone(),
                platform: platform.clone(),
                span,
            });
        }
    }

    /// Asks for all images that were noted since the last call. `similar` finds the name that might have been meant.
    pub(super) fn resolve(
        &mut self,
        resolver: &dyn ImageResolver,
        report: &mut Report,
        purpose: Purpose,
        similar: impl Fn(&ImageName) -> Option<String>,
    ) {
        let requests = &self.requests[self.asked..];
        if requests.is_empty() {
            return;
        }
        for (request, answer) in requests.iter().zip(resolver.resolve(requests)) {
            match answer {
                Ok(base) => {
                    let key = (request.name.clone(), request.platform.clone());
                    self.found.insert(key, base);
                }
                Err(source) if purpose.needs_bases() => {
                    report.error(not_found(request, similar(&request.name), source))
                }
                Err(source) => {
                    let message = format!("image `{}` is not known: {source}", request.name.familiar());
                    let hint = "checks that depend on its configuration are silent";
                    report.warn(message, request.span, Some(hint.to_owned()));
                }
            }
        }
        self.asked = self.requests.len();
    }

    /// What an image was found to be; `None` where it was not found, which is reported.
    pub(super) fn get(&self, name: &ImageName, platform: &Platform) -> Option<&ResolvedBase> {
        self.found.get(&(name.clone(), platform.clone()))
    }
}
