//! What ADD and named contexts take from elsewhere: how the planner asks for it, and what it was told.
//!
//! A URL in ADD may hold variables, whose values are known when a stage is lowered and not before. So the stages are
//! lowered twice where there may be any: once to gather what is asked for, then, with the answers, in earnest.

use std::collections::HashMap;

use crate::graph::{Remote, Source};

use super::error::Problem;
use super::images::{ImageResolver, ResolveError};

/// More than any build fetches, and a bound on what a hostile file can ask for.
const MOST_SOURCES: usize = 1_000;

/// The sources of a plan.
#[derive(Debug, Default)]
pub(super) struct Sources {
    order: Vec<Remote>,
    answers: HashMap<Remote, Answer>,
}

#[derive(Debug)]
enum Answer {
    /// Nobody was asked yet.
    Open,
    Found(Box<Source>),
    /// Why not; the first that needs it takes the error.
    Failed(Option<ResolveError>),
}

/// What a source is known to be.
pub(super) enum Found<'a> {
    Source(&'a Source),
    /// It will be asked for: this round only gathers.
    NotYet,
    /// It is in error, which is reported already.
    Failed,
}

impl Sources {
    /// What `remote` is. One that nobody was asked for is noted.
    pub(super) fn get(&mut self, remote: &Remote) -> Result<Found<'_>, Problem> {
        if !self.answers.contains_key(remote) {
            if self.order.len() == MOST_SOURCES {
                return Err(Problem::TooLarge {
                    what: "URLs and repositories",
                    limit: MOST_SOURCES,
                });
            }
            self.order.push(remote.clone());
            self.answers.insert(remote.clone(), Answer::Open);
        }
        match self.answers.get_mut(remote) {
            None | Some(Answer::Open) => Ok(Found::NotYet),
            Some(Answer::Found(source)) => Ok(Found::Source(source)),
            Some(Answer::Failed(error)) => match error.take() {
                Some(source) => Err(Problem::Remote { source }),
                None => Ok(Found::Failed),
            },
        }
    }

    /// Asks for all that was noted.
    pub(super) fn resolve(&mut self, resolver: &dyn ImageResolver) {
        let open = |remote: &&Remote| matches!(self.answers.get(*remote), Some(Answer::Open));
        let requests: Vec<Remote> = self.order.iter().filter(open).cloned().collect();
        let answers = resolver.resolve_sources(&requests);
        for (request, answer) in requests.into_iter().zip(answers) {
            let answer = match answer {
                Ok(source) => Answer::Found(Box::new(source)),
                Err(error) => Answer::Failed(Some(error)),
            };
            self.answers.insert(request, answer);
        }
    }
}
