//! Compares ImmuDB's state with the trusted one: at each connect before anything is written, and
//! with each keep-alive. What lies between them is read and checked.
//!
//! The trusted state comes from the file beside the log and from the last replication mark, and
//! moves forward with everything that was verified. The first contact with a database is trusted.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use tracing::{info, warn};

use super::{Forwarder, ForwarderSettings, trees::VerifiedTrees};
use crate::{
    durable_file,
    event::{Timestamp, record::ReplicationMark},
    history::HistoryError,
    immudb::{
        self, ErrorKind, Session, Sha256Hash, TxId,
        verify::{DatabaseState, PublicKey, TrustedState, entry_digest, verify_signature},
    },
    replication::{
        examination::{Heads, Report},
        fencing::{Decision, SuspectReason},
        findings::{self, Finding, Findings},
        head::{self, LogHead},
        ledger::{Contradiction, Ledger},
        notice::Notice,
        past_state::{self, PastState, PastStateError},
        status::TrustedView,
        tampering::{Condition, Evidence},
        trusted_state::{FetchError, TrustedFile, fetch_chain},
    },
};

/// What is trusted of ImmuDB's history, and what contradicted it.
#[derive(Debug)]
pub(super) struct Trust {
    pub file: TrustedFile,
    /// `None` before the first contact, unless the file has the history.
    pub ledger: Option<Ledger>,
    /// The state in the last mark, while there is no ledger.
    mark: Option<TrustedState>,
    /// The trees whose heads are in verified transactions.
    pub trees: VerifiedTrees,
    pub findings: Findings,
    /// The uuid of the server, or an empty text before the first contact.
    pub server: Arc<str>,
    /// The last transaction in the file.
    pub saved: TxId,
    /// The file has another history or is that of a former log, which is replaced.
    pub replaces: bool,
    /// What the first look has found, while the second one is under way.
    pub doubt: Option<Evidence>,
    /// ImmuDB has been doubted, and no transaction has been committed since.
    pub was_doubted: bool,
    /// Why the last claim was refused, while the second look is under way.
    pub refusal: Option<Refusal>,
    /// `log:head` names a writer of this log.
    pub owns_head: bool,
    /// Transactions in ImmuDB that were written by other clients.
    foreign: Notice,
}

/// Why a claim was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub reason: String,
    /// Another writer has the database, and may release it.
    pub may_end: bool,
}

/// Why the history in ImmuDB does not go on from the trusted state.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    Local(#[from] HistoryError),
    /// `log:head` was written meanwhile, and tells how to go on.
    #[error("log:head has changed")]
    HeadChanged,
    /// ImmuDB, or something between, contradicts the history.
    #[error(transparent)]
    Wrong(Box<Evidence>),
}

impl From<Evidence> for TrustError {
    fn from(evidence: Evidence) -> Self {
        Self::Wrong(Box::new(evidence))
    }
}

impl From<Contradiction> for TrustError {
    fn from(contradiction: Contradiction) -> Self {
        Evidence::from(contradiction).into()
    }
}

impl From<FetchError> for TrustError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Immudb(error) => error.into(),
            FetchError::Contradiction(contradiction) => contradiction.into(),
        }
    }
}

impl From<PastStateError> for TrustError {
    fn from(error: PastStateError) -> Self {
        match error {
            PastStateError::Immudb(error) => error.into(),
            PastStateError::History(error) => error.into(),
        }
    }
}

impl Trust {
    /// The number of transactions between two saves of the file.
    const SAVE_EVERY: u64 = 1000;

    /// Continues from the file or from the last mark, whichever is newer.
    pub(super) fn new(settings: &ForwarderSettings, mark: ReplicationMark) -> Self {
        let log = settings.log_id.map(|id| id.to_string()).unwrap_or_default();
        let file = TrustedFile::new(&settings.folder, log, settings.immudb.database.clone());
        let loaded = file.load_for(&mark).unwrap_or_else(|error| {
            warn!(%error, file = %file.path().display(), "ignored the saved trusted state; the last \
             replication mark counts");
            None
        });
        let (saved, is_of_former) = loaded.map_or((None, false), |(saved, former)| (Some(saved), former));
        if is_of_former {
            info!(file = %file.path().display(), "the trusted state of ImmuDB goes on from that of the log \
             that was here before");
        }
        let mark = mark.immudb_hash.map(|alh| TrustedState { tx: TxId(mark.immudb_tx), alh });
        let path = durable_file::beside_log(&settings.folder, findings::EXTENSION);
        let findings = Findings::open(&path).unwrap_or_else(|error| {
            warn!(%error, file = %path.display(), "cannot read the findings; new ones are not saved");
            Findings::unreadable(&path)
        });
        let server = saved.as_ref().map_or_else(|| Arc::from(""), |saved| Arc::from(&*saved.server));
        let saved_tx = saved.as_ref().map_or(TxId(0), |saved| saved.chain.state().tx);
        let tree = saved.as_ref().and_then(|saved| saved.tree);
        let ledger = saved.map(|saved| Ledger::new(saved.chain, mark));
        Self {
            file,
            mark: mark.filter(|_| ledger.is_none()),
            trees: VerifiedTrees::new(tree),
            ledger,
            findings,
            server,
            saved: saved_tx,
            replaces: is_of_former,
            doubt: None,
            was_doubted: false,
            refusal: None,
            owns_head: false,
            foreign: Notice::default(),
        }
    }

    /// Returns the newest trusted state, or `None` before the first contact.
    pub(super) fn newest(&self) -> Option<TrustedState> {
        self.ledger.as_ref().map(Ledger::newest).or(self.mark)
    }

    /// Returns the hash of a transaction, if it was verified lately.
    pub(super) fn hash_of(&self, tx: TxId) -> Option<Sha256Hash> {
        self.ledger.as_ref().and_then(|ledger| ledger.hash_of(tx))
    }

    /// Takes back what only the last answer says.
    pub(super) fn take_back(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.take_back();
        }
    }

    /// Forgets the history: the next contact is a first one.
    fn forget(&mut self) {
        (self.ledger, self.mark, self.replaces) = (None, None, true);
        self.trees = VerifiedTrees::default();
    }

    /// Returns whether the history has gone on far enough to be saved.
    pub(super) fn is_save_due(&self) -> bool {
        let last = self.ledger.as_ref().map(|ledger| ledger.state().tx.0);
        last.is_some_and(|last| self.replaces || last >= self.saved.0.saturating_add(Self::SAVE_EVERY))
    }
}

impl Forwarder {
    /// Notes which server a new session is with.
    pub(super) fn meet(&mut self, session: &Session) {
        let (before, now) = (&self.trust.server, session.server_uuid());
        if !before.is_empty() && **before != *now {
            // What counts is whether its history goes on.
            info!(%before, now, "ImmuDB has another server uuid than before");
        }
        self.trust.server = Arc::from(now);
    }

    /// Compares the history in ImmuDB with the trusted one, before this process acts on `decision`.
    /// `seen` is the transaction that wrote `log:head`, with its value.
    pub(super) async fn compare_history(
        &mut self,
        session: &Session,
        decision: Decision,
        seen: Option<(TxId, &Bytes)>,
    ) -> Result<(), TrustError> {
        let heads = match decision {
            // Nothing is written, whatever the history is.
            Decision::Fenced(_) => return Ok(()),
            Decision::Suspect(SuspectReason::RolledBack) => {
                return self.check_rollback(session, seen.map(|(tx, _)| tx)).await;
            }
            Decision::Suspect(
                SuspectReason::Emptied
                | SuspectReason::HeadMissing
                | SuspectReason::OfAethyr
                | SuspectReason::EventMissing
                | SuspectReason::EndDamaged,
            ) => return Ok(()),
            Decision::ClaimEmpty => {
                self.meet_empty(session).await?;
                self.end_doubt().await;
                return Ok(());
            }
            Decision::Claim | Decision::Resume => Heads::Local,
            Decision::ClaimAndCopy => Heads::Ahead,
        };
        self.catch_up(session, heads).await?;
        if let Some((tx, value)) = seen {
            self.verify_head(session, tx, value).await?;
            if heads == Heads::Local {
                self.note_tree(tx, value);
            }
        }
        Ok(())
    }

    /// Notes the tree in a head that was verified, and whose events the local log has.
    fn note_tree(&mut self, tx: TxId, value: &Bytes) {
        let Some(LogHead { position, tree, .. }) = LogHead::decode(value) else { return };
        self.trust.trees.add(tx, tree.filter(|tree| tree.size == position.0));
        self.publish_trust();
    }

    /// `log:head` is behind what was replicated: either ImmuDB was put back, or only the head was.
    async fn check_rollback(&mut self, session: &Session, seen: Option<TxId>) -> Result<(), TrustError> {
        let Some(newest) = self.trust.newest() else { return Ok(()) };
        // A version that verifies nothing may have replicated behind the trusted state.
        let marked = TxId(self.replication.view().forwarded.immudb_tx);
        if newest.tx < marked && self.ask_state(session).await?.tx < marked {
            return Ok(());
        }
        match self.catch_up(session, Heads::Unknown).await {
            Ok(()) | Err(TrustError::HeadChanged) => {
                let condition = Condition::KeyOverwritten;
                let finding = condition.finding("the head of the last transaction", "an earlier head");
                let finding = finding.of_key(head::KEY);
                let transaction = seen.map(|tx| tx.0);
                Err(Evidence::of(condition, Finding { transaction, ..finding }).into())
            }
            Err(error) => Err(error),
        }
    }

    /// No event of this log was ever in the database. If its history does not go on, it is another
    /// database under the same name.
    async fn meet_empty(&mut self, session: &Session) -> Result<(), TrustError> {
        match self.catch_up(session, Heads::Ahead).await {
            Err(TrustError::Wrong(evidence)) => {
                info!(%evidence, "the database was replaced before anything was replicated to it");
                self.trust.forget();
                self.catch_up(session, Heads::Ahead).await
            }
            done => done,
        }
    }

    /// Reads and checks everything behind the trusted state, up to ImmuDB's present state.
    pub(super) async fn catch_up(&mut self, session: &Session, heads: Heads) -> Result<(), TrustError> {
        let found = self.ask_state(session).await?;
        if self.trust.newest().is_some_and(|newest| found.tx < newest.tx) {
            return Err(self.examine_past(session, found).await);
        }
        if self.trust.ledger.is_none() {
            let ledger = self.first_ledger(session, found).await?;
            self.trust.ledger = Some(ledger);
            self.save_trust().await;
        }
        if let Some(far) = self.trust.ledger.as_ref().and_then(Ledger::far_milestone) {
            // A start must not have to read everything between the file and the last mark.
            let chain = self.unless_overdue(fetch_chain(session, far)).await?;
            self.trust.ledger = Some(Ledger::new(chain, None));
        }
        let Some(ledger) = &mut self.trust.ledger else { return Ok(()) };
        if ledger.state().tx == found.tx {
            Contradiction::check(ledger.state(), found)?;
            ledger.settle();
            self.report_foreign(&Report::default(), found.tx).await;
        } else {
            let (ledger, report) = self.read_up_to(session, found.tx, heads).await?;
            Contradiction::check(found, ledger.state())?;
            self.accept(ledger, report).await?;
        }
        self.publish_trust();
        self.save_trust_if_due().await;
        Ok(())
    }

    /// Checks that `log:head` of another writer is part of the history that goes on from the
    /// trusted one. Nothing is reported: that writer may write what it wants. Returns `false` if it
    /// has written so much that reading it would take too long.
    pub(super) async fn verify_other_head(
        &mut self,
        session: &Session,
        tx: TxId,
        value: &Bytes,
    ) -> Result<bool, TrustError> {
        const READ_MAX: u64 = 20_000;
        let Some(newest) = self.trust.newest() else { return Ok(true) };
        let found = self.ask_state(session).await?;
        if found.tx < newest.tx {
            return Err(Contradiction::Missing { expected: newest.tx }.into());
        }
        // The ledger may be far behind the last mark.
        let read_from = self.trust.ledger.as_ref().map_or(newest, Ledger::state).tx;
        if found.tx.0.saturating_sub(read_from.0) > READ_MAX {
            return Ok(false);
        }
        if self.trust.ledger.is_none() {
            self.trust.ledger = Some(self.first_ledger(session, found).await?);
        }
        let (ledger, _) = self.read_up_to(session, found.tx, Heads::Ahead).await?;
        Contradiction::check(found, ledger.state())?;
        self.trust.ledger = Some(ledger);
        self.verify_head(session, tx, value).await?;
        Ok(true)
    }

    /// Asks for ImmuDB's state. If a key is configured, it must be signed with that key.
    async fn ask_state(&mut self, session: &Session) -> Result<TrustedState, TrustError> {
        let found = self.unless_overdue(session.current_state()).await?;
        let Some(file) = &self.settings.public_key_file else { return Ok(found.state) };
        let problem = match read_key(file) {
            Err(problem) => problem,
            Ok(key) => match verify_signature(&found, &key) {
                Ok(()) => return Ok(found.state),
                Err(error) => {
                    self.record_bad_signature(&found, &error.to_string()).await;
                    format!("immudb.public_key_file: {error}")
                }
            },
        };
        let (kind, operation) = (ErrorKind::Configuration, "CurrentState");
        Err(immudb::Error { kind, operation, message: problem }.into())
    }

    async fn record_bad_signature(&mut self, found: &DatabaseState, problem: &str) {
        let finding = Condition::BadSignature.finding("a signature of the configured key", problem);
        self.trust.findings.record(finding.in_transaction(found.state.tx.0), Timestamp::now());
        self.publish_findings().await;
    }

    /// Begins the ledger with the last mark, or with ImmuDB's present state if there is none.
    async fn first_ledger(&mut self, session: &Session, found: TrustedState) -> Result<Ledger, TrustError> {
        let trusted = self.trust.mark.unwrap_or(found);
        let chain = self.unless_overdue(fetch_chain(session, trusted)).await?;
        if self.trust.mark.is_none() {
            let (transaction, hash) = (found.tx.0, hex::encode(found.alh));
            info!(transaction, hash, server = %self.trust.server, "first contact with this database: its \
             history up to here is trusted");
        }
        Ok(Ledger::new(chain, None))
    }

    /// ImmuDB ends before the trusted state. Tells whether it was put back.
    async fn examine_past(&mut self, session: &Session, found: TrustedState) -> TrustError {
        let (history, tip) = (self.history.clone(), self.sequencer.tip());
        match self.unless_overdue(past_state::compare(session, &history, tip, found)).await {
            Ok(PastState::OfThisHistory | PastState::Unknown) => {
                let newest = self.trust.newest().map(|newest| newest.tx.0).unwrap_or_default();
                let condition = Condition::OlderState;
                let finding = condition.finding(format!("transaction {newest}"), "an earlier state");
                Evidence::of(condition, finding.in_transaction(found.tx.0)).into()
            }
            Ok(PastState::Other(evidence)) => evidence.into(),
            Err(error) => error.into(),
        }
    }

    /// Checks that a transaction of the verified history wrote this value of `log:head`.
    async fn verify_head(&mut self, session: &Session, tx: TxId, value: &Bytes) -> Result<(), TrustError> {
        let Some(state) = self.trust.ledger.as_ref().map(Ledger::state) else { return Ok(()) };
        if tx > state.tx {
            return Err(Contradiction::Missing { expected: tx }.into());
        }
        let found = self.unless_overdue(session.verifiable_tx(tx, state.tx)).await?;
        found.verify(state).map_err(|error| Contradiction::Proof { tx, error })?;
        let expected = entry_digest(head::KEY, value);
        let version = found.transaction.header.version;
        if found.transaction.entries.iter().any(|entry| entry.digest(version) == Some(expected)) {
            return Ok(());
        }
        let condition = Condition::KeyOverwritten;
        let finding = condition.finding("the value that this transaction wrote", "another value");
        Err(Evidence::of(condition, finding.in_transaction(tx.0).of_key(head::KEY)).into())
    }

    /// Takes what was read into the history, and reports the transactions of other clients.
    pub(super) async fn accept(&mut self, ledger: Ledger, report: Report) -> Result<(), TrustError> {
        if report.head_changed {
            return Err(TrustError::HeadChanged);
        }
        let after = self.trust.ledger.as_ref().map_or(TxId(0), |ledger| ledger.state().tx);
        self.trust.ledger = Some(ledger);
        self.report_foreign(&report, after).await;
        Ok(())
    }

    /// Logs transactions of other clients, and records the beginnings of their keys.
    async fn report_foreign(&mut self, report: &Report, after: TxId) {
        const NAMED: usize = 5;
        for (prefix, tx) in &report.prefixes {
            let finding =
                Condition::ForeignTransaction.finding("only transactions of this service", "another");
            let finding = finding.in_transaction(tx.0).of_key(prefix.as_bytes());
            self.trust.findings.record(finding, Timestamp::now());
        }
        if !report.prefixes.is_empty() {
            self.publish_findings().await;
        }
        if let Some(transactions) = self.trust.foreign.add(report.foreign) {
            let keys: Vec<&str> = report.prefixes.keys().take(NAMED).map(String::as_str).collect();
            let before = self.trust.newest().map_or(after, |newest| newest.tx).next();
            let (after, before) = (after.0, before.0);
            warn!(transactions, after, before, ?keys, "another client writes to the database");
        }
    }

    /// Publishes how far the history was verified, and the tree in it.
    pub(super) fn publish_trust(&self) {
        if let Some(TrustedState { tx, alh }) = self.trust.newest() {
            let server_uuid = Arc::clone(&self.trust.server);
            self.replication.trusts(TrustedView { tx: tx.0, hash: alh, server_uuid });
        }
        let verified = self.trust.ledger.as_ref().map(Ledger::state);
        self.replication.verifies(verified.and_then(|verified| self.trust.trees.up_to(verified.tx)));
    }
}

/// Reads the public key at each use, so that it can be exchanged without a restart.
pub(super) fn read_key(file: &Path) -> Result<PublicKey, String> {
    let named =
        |error: &dyn std::fmt::Display| format!("immudb.public_key_file: {}: {error}", file.display());
    let text = fs::read_to_string(file).map_err(|error| named(&error))?;
    PublicKey::from_pem(&text).map_err(|error| named(&error))
}
