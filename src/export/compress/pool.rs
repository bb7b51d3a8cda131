//! Work on several threads, whose results come in the order in which the work was given.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Jobs that wait for a thread, or whose results wait to be taken, besides those that are being done.
const AHEAD: usize = 2;

type Work<J, R> = Arc<dyn Fn(J) -> R + Send + Sync>;

/// Threads that do one kind of work. They have the priority of the one that made them, and begin with the first job: where
/// none comes, nobody waits for threads.
pub(in crate::export) struct Pool<J, R> {
    work: Work<J, R>,
    threads: usize,
    jobs: Option<Sender<(J, Sender<R>)>>,
    /// Of the jobs that were given, in their order.
    results: VecDeque<Receiver<R>>,
    workers: Vec<JoinHandle<()>>,
}

impl<J: Send + 'static, R: Send + 'static> Pool<J, R> {
    pub(in crate::export) fn new(threads: usize, work: impl Fn(J) -> R + Send + Sync + 'static) -> Self {
        Self {
            work: Arc::new(work),
            threads: threads.max(1),
            jobs: None,
            results: VecDeque::new(),
            workers: Vec::new(),
        }
    }

    /// Whether any job was given.
    pub(super) fn has_begun(&self) -> bool {
        self.jobs.is_some()
    }

    /// Has a job done.
    pub(in crate::export) fn give(&mut self, job: J) -> io::Result<()> {
        let (done, result) = channel();
        self.jobs()?.send((job, done)).map_err(|_| gone())?;
        self.results.push_back(result);
        Ok(())
    }

    /// The oldest result, where enough other jobs are under way: what waits takes memory.
    pub(in crate::export) fn take_ripe(&mut self) -> io::Result<Option<R>> {
        match self.results.len() > self.threads + AHEAD {
            true => self.take(),
            false => Ok(None),
        }
    }

    /// The oldest result; `None` when all were taken.
    pub(in crate::export) fn take(&mut self) -> io::Result<Option<R>> {
        let next = self.results.pop_front();
        next.map(|result| result.recv().map_err(|_| gone())).transpose()
    }

    /// Waits for the threads to end.
    pub(in crate::export) fn join(mut self) {
        drop(self.jobs.take());
        for worker in self.workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }

    fn jobs(&mut self) -> io::Result<&Sender<(J, Sender<R>)>> {
        if self.jobs.is_none() {
            let (sender, jobs) = channel();
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..self.threads {
                let (jobs, work) = (jobs.clone(), self.work.clone());
                let thread = std::thread::Builder::new().name("compression".into());
                self.workers.push(thread.spawn(move || do_jobs(&jobs, &work))?);
            }
            self.jobs = Some(sender);
        }
        self.jobs.as_ref().ok_or_else(gone)
    }
}

fn do_jobs<J, R>(jobs: &Mutex<Receiver<(J, Sender<R>)>>, work: &Work<J, R>) {
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    while let Some((job, done)) = next() {
        // Nobody waits when the stream was given up.
        _ = done.send(work(job));
    }
}

fn gone() -> io::Error {
    io::Error::other("a thread that compresses has ended")
}
