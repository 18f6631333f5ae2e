//! The watch of one kind: a list by pages, then its changes, then the changes since; a new list
//! only where the server has forgotten where we were.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::request::{Api, Failure, fetch_page, open_watch};
use super::resources::Resource;
use super::store::{Change, Step};
use super::trouble::Trouble;
use super::wire::{Line, Page};
use crate::model::Kind;

/// Objects per page; a page is decoded at once.
const PAGE_OBJECTS: u32 = 500;
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// The longest pause that a server is believed to want.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// How often a kind is looked for that the server does not know.
const ABSENT_RETRY: Duration = Duration::from_secs(30);
/// A kind whose objects are known is believed to be gone after this many looks.
const ABSENT_LOOKS: u32 = 3;
/// A list that is empty where there were objects is asked for again before it is believed.
const EMPTY_RETRY: Duration = Duration::from_secs(5);
/// A watch that ends sooner did not work.
const WATCH_MIN: Duration = Duration::from_secs(1);

/// The collector has ended: nobody listens.
#[derive(Debug)]
struct Ended;

/// How one attempt ended that did not fail.
enum End {
    /// Go on from here.
    Fine,
    /// Ask for the list once more, to be sure.
    Doubtful,
}

/// Watches one kind until nobody listens.
pub(super) struct KindWatch {
    api: Arc<Api>,
    resource: Resource,
    steps: mpsc::Sender<(Kind, Step)>,
    random: SmallRng,
    /// Where the watch goes on; `None`: list first.
    version: Option<String>,
    /// Objects of it may be known.
    has_objects: bool,
    /// The last list was empty, against expectation.
    was_empty: bool,
    /// The server forgot a list between two pages: ask for all at once.
    is_paged: bool,
    /// When the server began to answer the last watch; `None` if it refused it.
    opened: Option<Instant>,
    failures: u32,
    absent_looks: u32,
    /// It was told that something is wrong.
    is_troubled: bool,
}

impl KindWatch {
    pub(super) fn new(
        api: Arc<Api>,
        resource: Resource,
        steps: mpsc::Sender<(Kind, Step)>,
        seed: u64,
    ) -> Self {
        Self {
            api,
            resource,
            steps,
            random: SmallRng::seed_from_u64(seed ^ resource.kind as u64),
            version: None,
            has_objects: false,
            was_empty: false,
            is_paged: true,
            opened: None,
            failures: 0,
            absent_looks: 0,
            is_troubled: false,
        }
    }

    /// Runs until the receiver of the steps is gone.
    pub(super) async fn run(mut self) {
        while let Ok(wait) = self.attempt().await {
            if let Some(wait) = wait {
                tokio::select! {
                    () = sleep(wait) => {}
                    () = self.steps.closed() => return,
                }
            }
        }
    }

    /// One list or one watch; with how long to wait before the next.
    async fn attempt(&mut self) -> Result<Option<Duration>, Ended> {
        let is_watch = self.version.is_some();
        self.opened = None;
        let result = match self.version.clone() {
            None => self.list().await?,
            Some(version) => self.watch(version).await?,
        };
        let is_long = self.opened.is_some_and(|it| it.elapsed() >= WATCH_MIN);
        if is_long {
            self.failures = 0;
        }
        let failure = match result {
            Ok(End::Fine) => {
                return Ok((is_watch && !is_long).then(|| self.jitter(RETRY_MIN)));
            }
            Ok(End::Doubtful) => return Ok(Some(self.jitter(EMPTY_RETRY))),
            Err(failure) => failure,
        };
        debug!("{}: {failure:?}", self.resource.plural);
        self.failures += 1;
        let wait = self.back_off();
        match failure {
            Failure::Gone => {
                self.version = None;
                // The first time at once: it happens to every watch that slept too long.
                return Ok((self.failures > 1).then_some(wait));
            }
            Failure::NotFound(_) if !self.resource.is_builtin => return self.look_again().await,
            Failure::Away(reason) => {
                // Once is a connection that was closed, as by a server that restarts.
                if self.failures > 1 {
                    self.report(Trouble::Unreachable(reason)).await?;
                }
                // The gate knows when to try again. That it took long says nothing about what the
                // server answers then.
                self.failures = 1;
                return Ok(Some(self.jitter(RETRY_MIN)));
            }
            Failure::Broken(reason) => {
                if self.failures > 1 {
                    self.report(Trouble::Unreachable(reason)).await?;
                }
            }
            Failure::Unauthorized(message) => self.report(Trouble::Unauthorized(message)).await?,
            Failure::Forbidden { verb, message } => {
                self.report(Trouble::Forbidden { verb, message }).await?;
            }
            Failure::NotFound(reason) | Failure::Failed(reason) => {
                // It may be the version that it stumbles over.
                self.version = None;
                self.report(Trouble::Failed(reason)).await?;
            }
            Failure::Busy { message, retry_after } => {
                if self.failures > 1 {
                    self.report(Trouble::Failed(message)).await?;
                }
                return Ok(Some(wait.max(self.defer(retry_after))));
            }
        }
        Ok(Some(wait))
    }

    async fn list(&mut self) -> Result<Result<End, Failure>, Ended> {
        self.tell(Step::ListStarted).await?;
        let mut next = None;
        let mut count = 0;
        loop {
            let limit = self.is_paged.then_some(PAGE_OBJECTS);
            let page = fetch_page(&self.api, &self.resource, limit, next.take()).await;
            let Page { items, version, next: more } = match page {
                Ok(page) => page,
                Err(failure) => {
                    if matches!(failure, Failure::Gone) {
                        self.is_paged = false;
                    }
                    return Ok(Err(failure));
                }
            };
            count += items.len();
            self.has_objects |= !items.is_empty();
            if !items.is_empty() {
                self.tell(Step::Listed(items)).await?;
            }
            if more.is_some() {
                next = more;
                continue;
            }
            if count == 0 && self.has_objects && !self.was_empty {
                self.was_empty = true;
                return Ok(Ok(End::Doubtful));
            }
            (self.was_empty, self.has_objects, self.is_paged) = (false, count > 0, true);
            let number = version.parse().unwrap_or(0);
            self.version = Some(version);
            self.absent_looks = 0;
            self.tell(Step::ListDone(number)).await?;
            self.clear_trouble().await?;
            return Ok(Ok(End::Fine));
        }
    }

    async fn watch(&mut self, version: String) -> Result<Result<End, Failure>, Ended> {
        let mut lines = match open_watch(&self.api, &self.resource, &version).await {
            Ok(lines) => lines,
            Err(failure) => return Ok(Err(failure)),
        };
        self.opened = Some(Instant::now());
        self.clear_trouble().await?;
        loop {
            let closed = self.steps.clone();
            let next = tokio::select! {
                next = lines.next() => next,
                () = closed.closed() => return Err(Ended),
            };
            let read = match next {
                Ok(Some(read)) => read,
                Ok(None) => return Ok(Ok(End::Fine)),
                Err(failure) => return Ok(Err(failure)),
            };
            self.failures = 0;
            if let Some(failure) = self.take_lines(read).await? {
                return Ok(Err(failure));
            }
        }
    }

    /// Hands on the lines that came together; what is behind one that ends the watch is not sent.
    async fn take_lines(&mut self, read: Vec<(Line, String)>) -> Result<Option<Failure>, Ended> {
        let mut changes = Vec::with_capacity(read.len());
        let mut end = None;
        for (line, version) in read {
            changes.push(match line {
                Line::Put(item) => {
                    self.has_objects = true;
                    Change::Put(item)
                }
                Line::Deleted(item) => Change::Deleted(item),
                Line::Bookmark(version) => Change::Bookmark(version),
                Line::Failed(code, message) => {
                    end = Some(Failure::from_status(code, "watch", message, None));
                    break;
                }
            });
            self.version = Some(version);
        }
        if !changes.is_empty() {
            self.tell(Step::Changed(changes)).await?;
        }
        Ok(end)
    }

    async fn look_again(&mut self) -> Result<Option<Duration>, Ended> {
        self.version = None;
        self.absent_looks += 1;
        let is_sure = self.absent_looks >= ABSENT_LOOKS;
        self.has_objects &= !is_sure;
        self.is_troubled = true;
        self.tell(Step::Absent { is_sure }).await?;
        Ok(Some(self.jitter(ABSENT_RETRY)))
    }

    async fn clear_trouble(&mut self) -> Result<(), Ended> {
        if std::mem::take(&mut self.is_troubled) {
            self.tell(Step::Trouble(None)).await?;
        }
        Ok(())
    }

    async fn report(&mut self, trouble: Trouble) -> Result<(), Ended> {
        self.is_troubled = true;
        self.tell(Step::Trouble(Some(trouble))).await
    }

    async fn tell(&self, step: Step) -> Result<(), Ended> {
        self.steps.send((self.resource.kind, step)).await.map_err(|_| Ended)
    }

    fn back_off(&mut self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        self.jitter((RETRY_MIN * (1 << doublings)).min(RETRY_MAX))
    }

    /// What the server asks for, and up to half of it more: it tells all agents the same.
    fn defer(&mut self, retry_after: Option<Duration>) -> Duration {
        let wait = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        wait.mul_f64(self.random.random_range(1.0..=1.5))
    }

    /// Between half of it and all: thousands of agents must not come back together.
    fn jitter(&mut self, wait: Duration) -> Duration {
        wait.mul_f64(self.random.random_range(0.5..=1.0))
    }
}
