//! The auditor: walks over all transactions in ImmuDB in the background, again and again, and
//! compares them with the local log. So it finds what no commit shows: values that were damaged or
//! changed after they had been written, and what was there before the first contact.
//!
//! It has a thread of the lowest priority, a session of its own and a pace. It changes nothing, and
//! no failure of it concerns anything else: what it finds goes to the forwarder, which records it
//! and decides about the state.

mod checkpoints;
mod contents;
pub(super) mod damage;
mod known;
mod links;
mod local;
mod pace;
mod page_size;
mod place;
mod walk;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    runtime,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub(crate) use self::{
    checkpoints::{CheckpointJudge, Judge},
    place::Place,
    walk::{Step, Walk, WalkError, WalkParts},
};
use self::{known::Known, pace::Pace, place::PlaceFile};
use super::{notice::Notice, reports::Reports, state::State, status::ReplicationStatus};
use crate::{
    event::Timestamp,
    history::History,
    immudb::{ErrorKind, Session, SessionSettings, TxId, verify::TrustedState},
    index::WaitMode,
    retry::RetryDelays,
    threads,
};

/// The settings of the auditor.
#[derive(Debug, Clone)]
pub(crate) struct AuditSettings {
    pub immudb: SessionSettings,
    /// The directory of the local log. Where the audit stands is kept next to it.
    pub log_path: PathBuf,
    /// The id of the local log.
    pub log: String,
    /// The pace. An auditor that is off is not started.
    pub events_per_second: u64,
    /// What checkpoints in ImmuDB are compared with.
    pub checkpoints: Judge,
}

/// How far the audit is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AuditStatus {
    /// The number of the round that runs, from 1 on; 0 if there is no audit. Between two rounds, it
    /// is that of the last one.
    pub round: u64,
    /// The last transaction that this round has checked.
    pub transaction: u64,
    /// The last transaction of this round. 0 before the first contact.
    pub last_transaction: u64,
    /// The number of events that this round has checked.
    pub events: u64,
    /// When this round began.
    pub started_at: Option<Timestamp>,
    /// When the last whole round ended.
    pub finished_at: Option<Timestamp>,
    /// Why the audit does not go on at the moment. `None` if it does, or if it only waits.
    pub last_error: Option<String>,
}

/// Tells how far the audit is. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AuditWatch(watch::Receiver<AuditStatus>);

impl AuditWatch {
    /// Returns how far the audit is.
    pub(crate) fn status(&self) -> AuditStatus {
        self.0.borrow().clone()
    }
}

/// Starts the thread "audit". The future completes when the thread has ended.
///
/// # Errors
/// Returns an error if the thread cannot be started.
pub(crate) fn start(
    settings: AuditSettings,
    history: History,
    replication: Arc<ReplicationStatus>,
    reports: Reports,
    stopping: CancellationToken,
) -> io::Result<(AuditWatch, impl Future<Output = ()> + Send + use<>)> {
    let (status, watch) = watch::channel(AuditStatus::default());
    // The audit must not rebuild index files itself, but may wait until they are.
    let history = History { wait_mode: WaitMode::AtOnce, ..history };
    let auditor = Auditor::new(settings, history, Outside { replication, reports, status, stopping });
    let (_, end) = threads::spawn("audit", move || run(auditor))?;
    let ended = async move {
        match end.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(%error, "the audit cannot run"),
            Err(_) => error!("the audit thread panicked; there is no audit until the next start"),
        }
    };
    Ok((AuditWatch(watch), ended))
}

/// Runs the auditor on this thread, and its work on others of the same priority.
fn run(auditor: Auditor) -> io::Result<()> {
    threads::lower_priority();
    // Built here, because a runtime must not be dropped where another one runs.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .on_thread_start(threads::lower_priority)
        .build()?;
    runtime.block_on(auditor.run());
    Ok(())
}

/// The other parts of the service.
struct Outside {
    replication: Arc<ReplicationStatus>,
    reports: Reports,
    status: watch::Sender<AuditStatus>,
    stopping: CancellationToken,
}

struct Auditor {
    settings: AuditSettings,
    history: History,
    outside: Outside,
    pace: Pace,
    file: PlaceFile,
    known: Known,
    place: Place,
    saved_at: Instant,
    /// A session that is kept between two rounds.
    session: Option<Session>,
    delays: RetryDelays,
    unsaved: Notice,
}

/// How a stretch of a round ended.
enum Stretch {
    /// The round is over.
    Finished,
    /// The state of the service does not allow it to go on.
    Paused,
}

impl Auditor {
    /// The minimum time from the beginning of a round to that of the next.
    const ROUND_EVERY: Duration = Duration::from_secs(10);
    const SAVE_EVERY: Duration = Duration::from_secs(10);
    /// The forwarder looks each report up among all findings, while callers wait for it.
    const REPORT_EVERY: Duration = Duration::from_millis(5);
    const CLOSING_MAX: Duration = Duration::from_secs(1);

    fn new(settings: AuditSettings, history: History, outside: Outside) -> Self {
        let database = settings.immudb.database.clone();
        let file = PlaceFile::new(&settings.log_path, settings.log.clone(), database);
        let place = file.load();
        let auditor = Self {
            pace: Pace::new(settings.events_per_second),
            known: Known::new(&settings.log_path),
            settings,
            history,
            outside,
            file,
            place,
            saved_at: Instant::now(),
            session: None,
            delays: RetryDelays::new(Duration::from_secs(1), Duration::from_secs(30)),
            unsaved: Notice::default(),
        };
        auditor.publish(TxId(0), None);
        auditor
    }

    /// Audits until the service stops.
    async fn run(mut self) {
        let stopping = self.outside.stopping.clone();
        _ = stopping.run_until_cancelled(self.rounds()).await;
        self.save();
        if let Some(session) = self.session.take() {
            _ = timeout(Self::CLOSING_MAX, session.close()).await;
        }
    }

    async fn rounds(&mut self) {
        let mut due = Instant::now();
        loop {
            let end = self.wait_until(due).await;
            let began = Instant::now();
            match self.walk(end).await {
                Ok(Stretch::Finished) => {
                    self.delays.reset();
                    due = began.checked_add(Self::ROUND_EVERY).unwrap_or(began);
                }
                Ok(Stretch::Paused) => {
                    debug!("the audit pauses");
                    self.session = None;
                    self.save();
                    due = Instant::now();
                }
                Err(error) => {
                    debug!(%error, "the audit cannot go on");
                    self.session = None;
                    self.save();
                    self.publish(end.tx, Some(error.to_string()));
                    // A new login resolves it.
                    let is_expired = matches!(
                        &error,
                        WalkError::Immudb(error) if error.kind == ErrorKind::SessionExpired
                    );
                    let delay = if is_expired { Duration::from_secs(1) } else { self.delays.next_delay() };
                    due = Instant::now().checked_add(delay).unwrap_or_else(Instant::now);
                }
            }
        }
    }

    /// Waits until this moment, and until the state allows an audit. Returns the trusted state.
    async fn wait_until(&mut self, due: Instant) -> TrustedState {
        sleep_until(due).await;
        let mut states = self.outside.replication.watch_state();
        loop {
            if self.may_run()
                && let Some(trusted) = self.outside.replication.view().trusted
            {
                return TrustedState { tx: TxId(trusted.tx), alh: trusted.hash };
            }
            self.session = None;
            // The trusted state is known a little later than the state, or never.
            _ = timeout(Duration::from_secs(1), states.changed()).await;
        }
    }

    fn may_run(&self) -> bool {
        match self.outside.replication.state() {
            State::Connected | State::Tampered => true,
            State::Starting
            | State::Fallback
            | State::Migrating
            | State::LocalOnly
            | State::Suspect
            | State::Fenced
            | State::Copying => false,
        }
    }

    /// Walks from where the audit stands to the trusted state.
    async fn walk(&mut self, end: TrustedState) -> Result<Stretch, WalkError> {
        let parts = WalkParts {
            immudb: self.settings.immudb.clone(),
            history: self.history.clone(),
            end,
            page_events_max: Some(self.pace.page_events_max()),
            checkpoints: self.settings.checkpoints.clone(),
        };
        let began = Instant::now();
        let mut walk = match self.session.take() {
            Some(session) => Walk::continued(parts, self.place.clone(), session).await?,
            None => Walk::start(parts, self.place.clone()).await?,
        };
        let is_new = walk.place().started_at.is_none();
        self.place = walk.place().clone();
        if is_new {
            self.place.started_at = Some(Timestamp::now());
        }
        self.publish(end.tx, None);
        let mut began_step = began;
        while let Step::Checked(checked) = walk.next().await? {
            self.delays.reset();
            let rest = {
                let is_waited_for = self.outside.replication.waiting_since().is_some();
                self.pace.rest(&checked, began_step.elapsed(), is_waited_for)
            };
            for report in self.known.only_new(checked.reports) {
                self.outside.reports.send(report).await;
                sleep(Self::REPORT_EVERY).await;
            }
            // Not before: the audit may be stopped while it waits.
            let started_at = self.place.started_at;
            self.place = Place { started_at, ..walk.place().clone() };
            self.publish(end.tx, None);
            if self.saved_at.elapsed() >= Self::SAVE_EVERY {
                self.save();
            }
            if !self.rest(rest).await {
                return Ok(Stretch::Paused);
            }
            began_step = Instant::now();
        }
        self.session = Some(walk.into_session());
        self.finish(end.tx);
        Ok(Stretch::Finished)
    }

    /// Rests. Returns `false` if the state does not allow to go on.
    async fn rest(&self, rest: Duration) -> bool {
        let mut states = self.outside.replication.watch_state();
        let until = Instant::now().checked_add(rest);
        while self.may_run() {
            let Some(until) = until.filter(|until| *until > Instant::now()) else { return true };
            tokio::select! {
                () = sleep_until(until) => {}
                _ = states.changed() => {}
            }
        }
        false
    }

    /// Ends the round.
    fn finish(&mut self, last: TxId) {
        let finished_at = Timestamp::now();
        self.place.finished_at = Some(finished_at);
        self.publish(last, None);
        if self.place.round == 1 {
            let (transactions, events) = (last.0, self.place.events());
            info!(transactions, events, "the first audit of the history in ImmuDB is complete");
        }
        self.place = self.place.next_round(finished_at);
        self.save();
    }

    fn publish(&self, last: TxId, last_error: Option<String>) {
        let Place { round, started_at, finished_at, .. } = self.place;
        self.outside.status.send_replace(AuditStatus {
            round,
            transaction: self.place.reached().0,
            last_transaction: last.0,
            events: self.place.events(),
            started_at,
            finished_at,
            last_error,
        });
    }

    /// Saves where the audit stands. Without it, a restart costs a part of a round.
    fn save(&mut self) {
        self.saved_at = Instant::now();
        if let Err(error) = self.file.store(&self.place)
            && let Some(times) = self.unsaved.add(1)
        {
            warn!(%error, times, "cannot save where the audit stands");
        }
    }
}
