//! One walk over all transactions in ImmuDB, up to the trusted state: each is linked to the one
//! before it, has the entries of its header, and has the records of the local log.
//!
//! What is wrong is returned, and the walk goes on behind it. A contradiction counts only if a
//! second look over a new session finds it again.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    checkpoints::{self, Judge},
    contents::{self, check_entries, contradicted},
    damage::Damage,
    links::Break,
    local::LocalReader,
    page_size::PageSize,
    place::Place,
};
use crate::{
    history::{History, HistoryError},
    immudb::{
        self, ErrorKind, Session, SessionSettings, Transaction, TransactionKeys, TxHeader, TxId,
        verify::TrustedState,
    },
    replication::{ledger::Contradiction, reports::Report, tampering::Condition, transaction::EVENT_PREFIX},
};

/// What a walk needs.
#[derive(Debug, Clone)]
pub(crate) struct WalkParts {
    pub immudb: SessionSettings,
    pub history: History,
    /// The last transaction.
    pub end: TrustedState,
    /// About the number of events that are read at once. Without a maximum, the pages are as large
    /// as the limits allow, and the next one is requested while one is compared.
    pub page_events_max: Option<u64>,
    /// What checkpoints are compared with.
    pub checkpoints: Judge,
}

/// Why a walk cannot go on at the moment. It can be continued from where it stands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    Local(#[from] HistoryError),
}

/// The next part of a walk.
#[derive(Debug)]
pub(crate) enum Step {
    Checked(Checked),
    /// The last transaction was checked before.
    Ended,
}

/// What was checked in one step.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub transactions: u64,
    pub events: u64,
    /// For how long ImmuDB was asked.
    pub took: Duration,
    /// What is wrong.
    pub reports: Vec<Report>,
}

/// A walk under way.
#[derive(Debug)]
pub(crate) struct Walk {
    parts: WalkParts,
    session: Session,
    place: Place,
    size: PageSize,
    /// `None` while another thread has it.
    reader: Option<LocalReader>,
    /// The next page, which was requested ahead.
    ahead: Option<Fetched>,
    /// ImmuDB has answered with an error for a page that ends there.
    damaged_until: TxId,
    /// ImmuDB has no more transactions.
    is_at_end: bool,
    /// When the last second look opened a new session.
    renewed_at: Option<Instant>,
}

/// The answer to one request for a page.
#[derive(Debug)]
struct Fetched {
    page: Result<Vec<Transaction>, immudb::Error>,
    took: Duration,
}

/// A page that was compared.
struct Compared {
    place: Place,
    checked: Checked,
    bytes: usize,
    /// The transactions that have to be examined by their keys.
    by_keys: Vec<TxHeader>,
}

impl Walk {
    /// Opens a session, and continues from `place` if ImmuDB still has the same history there.
    /// Otherwise, the walk begins with the first transaction.
    ///
    /// # Errors
    /// Returns an error if ImmuDB cannot be read.
    pub(crate) async fn start(parts: WalkParts, place: Place) -> Result<Self, WalkError> {
        let session = Session::open_existing(&parts.immudb).await?;
        Self::continued(parts, place, session).await
    }

    /// Same as [`Walk::start`], over a session that is open already.
    ///
    /// # Errors
    /// See [`Walk::start`].
    pub(super) async fn continued(
        parts: WalkParts,
        place: Place,
        session: Session,
    ) -> Result<Self, WalkError> {
        let is_same = match place.reached() {
            TxId(0) => true,
            reached if reached > parts.end.tx => false,
            reached => has_hash(&session, reached, place.links.alh()).await?,
        };
        let place = if is_same { place } else { place.again() };
        let reader = Some(LocalReader::new(parts.history.clone()));
        let size = PageSize::new(parts.page_events_max, parts.immudb.response_bytes_max);
        Ok(Self {
            parts,
            session,
            place,
            size,
            reader,
            ahead: None,
            damaged_until: TxId(0),
            is_at_end: false,
            renewed_at: None,
        })
    }

    /// Returns where the walk stands.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Ends the walk where it stands. Returns its session.
    pub(crate) fn into_session(self) -> Session {
        self.session
    }

    /// Checks the next page. If it fails, it can be called again.
    ///
    /// # Errors
    /// Returns an error if ImmuDB or the local log cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Step, WalkError> {
        loop {
            let first = self.place.reached().next();
            if first > self.parts.end.tx || self.is_at_end {
                return Ok(Step::Ended);
            }
            let fetched = match self.ahead.take() {
                Some(fetched) => fetched,
                None => fetch(&self.session, first, self.limit(first)).await,
            };
            let error = match fetched.page {
                Ok(page) if page.is_empty() => return self.ends_early(first).await.map(Step::Checked),
                Ok(page) => return self.check(page, fetched.took).await.map(Step::Checked),
                Err(error) => error,
            };
            let last = TxId(first.0.saturating_add(self.limit(first).into()).saturating_sub(1));
            match error.kind {
                ErrorKind::Corrupted if self.size.halve() => {
                    self.damaged_until = self.damaged_until.max(last);
                }
                ErrorKind::TooLarge if self.size.halve() => {}
                ErrorKind::Corrupted => return self.damaged(first).await.map(Step::Checked),
                ErrorKind::TooLarge => return self.too_large(first).await.map(Step::Checked),
                ErrorKind::Refused
                | ErrorKind::Unreachable
                | ErrorKind::Busy
                | ErrorKind::SessionExpired
                | ErrorKind::Configuration
                | ErrorKind::Rejected => return Err(error.into()),
            }
        }
    }

    /// Returns the number of transactions on the page that begins with `first`.
    fn limit(&self, first: TxId) -> u32 {
        let left = self.parts.end.tx.0.saturating_sub(first.0).saturating_add(1);
        self.size.limit().min(u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// Checks a page. Meanwhile, the next one is requested if there is no pace to keep.
    async fn check(&mut self, page: Vec<Transaction>, took: Duration) -> Result<Checked, WalkError> {
        let (first, count) = (self.place.reached().next(), page.len());
        let next = TxId(first.0.saturating_add(count as u64));
        let asks_ahead = self.size.is_full_pace() && next <= self.parts.end.tx && next > self.damaged_until;
        let (session, limit) = (self.session.clone(), self.limit(next));
        let ahead = async { if asks_ahead { Some(fetch(&session, next, limit).await) } else { None } };
        let (ahead, compared) = tokio::join!(ahead, self.compare(page));
        let mut compared = compared?;
        if compared.checked.reports.iter().any(is_about_answers) {
            compared = self.look_again(compared, first, count).await?;
        } else {
            self.ahead = ahead;
        }
        compared.checked.took = compared.checked.took.saturating_add(took);
        if self.damaged_until < next {
            self.size.follow(compared.checked.events, compared.bytes);
        }
        self.place = compared.place;
        Ok(compared.checked)
    }

    /// Compares a page with the local log on another thread, and then what has to be examined by
    /// its keys. Changes nothing but the reader.
    async fn compare(&mut self, page: Vec<Transaction>) -> Result<Compared, WalkError> {
        let history = self.parts.history.clone();
        let mut reader = self.reader.take().unwrap_or_else(|| LocalReader::new(history.clone()));
        let (place, damaged_until) = (self.place.clone(), self.damaged_until);
        let judge = self.parts.checkpoints.clone();
        let (reader, compared) = on_another_thread(move || {
            let compared = compare_page(&page, (place, damaged_until), &mut reader, &judge);
            reader.rest();
            (reader, compared)
        })
        .await;
        self.reader = Some(reader);
        let mut compared = compared?;
        for header in std::mem::take(&mut compared.by_keys) {
            let began = Instant::now();
            let keys = self.session.scan_headers(header.id, 1).await?;
            compared.checked.took = compared.checked.took.saturating_add(began.elapsed());
            let Some(keys) = keys.into_iter().next() else {
                compared.checked.reports.extend(contradicted(Contradiction::Missing { expected: header.id }));
                continue;
            };
            if let Some(other) = other_header(&header, &keys.header) {
                compared.checked.reports.extend(contradicted(other));
                continue;
            }
            let history = history.clone();
            let reports = on_another_thread(move || contents::examine(&keys, &history)).await?;
            compared.checked.reports.extend(reports);
        }
        if let Err(contradiction) = compared.place.links.check_end(self.parts.end) {
            compared.checked.reports.extend(contradicted(contradiction));
        }
        Ok(compared)
    }

    /// Reads and compares the same page again over a new session. What was wrong only once is
    /// reported as a wrong answer.
    async fn look_again(
        &mut self,
        before: Compared,
        first: TxId,
        count: usize,
    ) -> Result<Compared, WalkError> {
        self.reconnect().await?;
        let limit = u32::try_from(count).unwrap_or(u32::MAX);
        let fetched = fetch(&self.session, first, limit).await;
        let mut again = self.compare(fetched.page?).await?;
        again.checked.took = again.checked.took.saturating_add(fetched.took);
        let is_in = |reports: &[Report], report: &Report| reports.iter().any(|other| is_same(other, report));
        let wrong: Vec<Report> = before
            .checked
            .reports
            .into_iter()
            .filter(|report| !is_in(&again.checked.reports, report))
            .map(as_wrong_answer)
            .collect();
        again.checked.reports.extend(wrong);
        Ok(again)
    }

    async fn reconnect(&mut self) -> Result<(), WalkError> {
        self.ahead = None;
        self.renewed_at = Some(Instant::now());
        let session = Session::open_existing(&self.parts.immudb).await?;
        std::mem::replace(&mut self.session, session).close().await;
        Ok(())
    }

    /// ImmuDB has no such transaction, although the trusted state is behind it.
    async fn ends_early(&mut self, expected: TxId) -> Result<Checked, WalkError> {
        self.reconnect().await?;
        let fetched = fetch(&self.session, expected, 1).await;
        if !fetched.page?.is_empty() {
            let report = contradicted(Contradiction::Missing { expected }).map(as_wrong_answer);
            return Ok(Checked { reports: report.collect(), ..Checked::default() });
        }
        self.is_at_end = true;
        let reports = contradicted(Contradiction::Missing { expected }).collect();
        Ok(Checked { reports, ..Checked::default() })
    }

    /// Goes past a transaction that ImmuDB cannot read.
    async fn damaged(&mut self, tx: TxId) -> Result<Checked, WalkError> {
        /// A login costs ImmuDB more than many pages, and there may be much damage.
        const RENEWED_EVERY: Duration = Duration::from_secs(10);
        let began = Instant::now();
        if self.renewed_at.is_none_or(|at| at.elapsed() >= RENEWED_EVERY) {
            self.reconnect().await?;
        }
        let again = fetch(&self.session, tx, 1).await;
        let error = match again.page {
            // The next call reads it.
            Ok(_) => return Ok(Checked::default()),
            Err(error) if error.kind == ErrorKind::Corrupted => error,
            Err(error) => return Err(error.into()),
        };
        let damage = Damage::examine(&self.session, tx, &error).await?;
        let mut checked = Checked { transactions: 1, took: began.elapsed(), ..Checked::default() };
        checked.reports.extend(damage.reports());
        let mut place = self.place.clone();
        match damage.keys {
            Some(keys) => self.take_keys(&mut place, keys, &mut checked).await?,
            None => {
                place.links.skip();
                place.local.gap = true;
            }
        }
        self.place = place;
        Ok(checked)
    }

    /// Checks a transaction that is too large to be read with its values.
    async fn too_large(&mut self, tx: TxId) -> Result<Checked, WalkError> {
        let began = Instant::now();
        let keys = self.session.scan_headers(tx, 1).await?;
        let Some(keys) = keys.into_iter().next() else { return self.ends_early(tx).await };
        let mut checked = Checked { transactions: 1, took: began.elapsed(), ..Checked::default() };
        let mut place = self.place.clone();
        self.take_keys(&mut place, keys, &mut checked).await?;
        self.place = place;
        Ok(checked)
    }

    /// Takes a transaction whose values are not known.
    async fn take_keys(
        &self,
        place: &mut Place,
        keys: TransactionKeys,
        checked: &mut Checked,
    ) -> Result<(), WalkError> {
        if let Err(broken) = place.links.add(&keys.header) {
            checked.reports.extend(broken_link(broken, self.damaged_until));
        }
        let events = keys.entries.iter().filter(|entry| entry.key.starts_with(EVENT_PREFIX.as_bytes()));
        checked.events = events.count() as u64;
        place.events = place.events.saturating_add(checked.events);
        place.local.gap = true;
        let history = self.parts.history.clone();
        checked.reports.extend(on_another_thread(move || contents::examine(&keys, &history)).await?);
        if let Err(contradiction) = place.links.check_end(self.parts.end) {
            checked.reports.extend(contradicted(contradiction));
        }
        Ok(())
    }
}

/// Compares a page with the local log.
fn compare_page(
    page: &[Transaction],
    (mut place, damaged_until): (Place, TxId),
    reader: &mut LocalReader,
    judge: &Judge,
) -> Result<Compared, HistoryError> {
    let mut checked = Checked { transactions: page.len() as u64, ..Checked::default() };
    let (mut bytes, mut by_keys) = (0usize, Vec::new());
    for transaction in page {
        if let Err(broken) = place.links.add(&transaction.header) {
            checked.reports.extend(broken_link(broken, damaged_until));
        }
        for (key, value) in &transaction.entries {
            bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
        }
        if let Err(contradiction) = check_entries(transaction) {
            checked.reports.extend(contradicted(contradiction));
            place.local.gap = true;
            continue;
        }
        let compared = contents::compare(transaction, &mut place.local, reader)?;
        checked.events = checked.events.saturating_add(compared.events);
        checked.reports.extend(compared.reports);
        if let Some(judge) = judge {
            checked.reports.extend(checkpoints::compare(transaction, &**judge));
        }
        if compared.by_keys {
            by_keys.push(transaction.header.clone());
        }
    }
    place.events = place.events.saturating_add(checked.events);
    Ok(Compared { place, checked, bytes, by_keys })
}

/// Requests a page, and checks that it has no gap.
async fn fetch(session: &Session, first: TxId, limit: u32) -> Fetched {
    let began = Instant::now();
    let page = session.scan_transactions(first, limit.max(1)).await.and_then(|page| {
        let mut expected = first;
        for transaction in &page {
            let found = transaction.header.id;
            if found != expected {
                let message = format!("received transaction {found} instead of {expected}");
                return Err(immudb::Error { kind: ErrorKind::Corrupted, operation: "TxScan", message });
            }
            expected = expected.next();
        }
        Ok(page)
    });
    Fetched { page, took: began.elapsed() }
}

/// Returns whether ImmuDB has a transaction with this hash. One that is damaged may be the same.
async fn has_hash(session: &Session, tx: TxId, alh: Option<[u8; 32]>) -> Result<bool, WalkError> {
    let Some(alh) = alh else { return Ok(true) };
    let found = match session.scan_headers(tx, 1).await {
        Ok(found) => found.into_iter().next(),
        Err(error) if error.kind == ErrorKind::Corrupted => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    Ok(found.is_some_and(|found| found.header.accumulated_hash() == Some(alh)))
}

/// Returns a contradiction if two headers of the same transaction differ.
fn other_header(expected: &TxHeader, found: &TxHeader) -> Option<Contradiction> {
    if expected == found {
        return None;
    }
    let hash = |header: &TxHeader| header.accumulated_hash().unwrap_or_default();
    Some(Contradiction::OtherHash { tx: expected.id, expected: hash(expected), found: hash(found) })
}

/// Where ImmuDB itself has found damage, a header that does not fit is part of it.
fn broken_link(broken: Break, damaged_until: TxId) -> Vec<Report> {
    let Break { tx, contradiction } = broken;
    if contradiction.transaction() > damaged_until {
        return contradicted(contradiction).collect();
    }
    let (expected, found) = contradiction.sides();
    let condition = Condition::DamagedInImmudb;
    vec![Report { condition, finding: condition.finding(expected, found).in_transaction(tx.0) }]
}

/// Returns whether a wrong answer may have led to the report. Nobody has a reason to pretend that
/// another client has written, and the local log does not depend on answers.
fn is_about_answers(report: &Report) -> bool {
    !matches!(report.condition, Condition::ForeignTransaction | Condition::LocalDamage)
}

fn is_same(one: &Report, other: &Report) -> bool {
    (one.condition, &one.finding) == (other.condition, &other.finding)
}

fn as_wrong_answer(report: Report) -> Report {
    let condition = Condition::WrongAnswer;
    let mut finding = condition.finding(report.finding.expected, report.finding.found);
    (finding.transaction, finding.key) = (report.finding.transaction, report.finding.key);
    Report { condition, finding }
}

async fn on_another_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        },
    }
}
