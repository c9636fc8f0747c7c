//! Claims the ImmuDB database: reads `log:head`, decides, writes the claim, and restores what the
//! local log lacks. The rules of the decision are those of the fencing module.

use std::io;

use bytes::Bytes;
use tracing::{info, warn};

use super::{
    Forwarder, Learned, LogPoint, Released, WriterClaim, answers, receipts, trust::TrustError,
    unchanged_since,
};
use crate::{
    crash_point::CrashPoint,
    event::{
        Position, Timestamp,
        record::{RUBY_MARSHAL, ReplicationMark},
    },
    history::HistoryError,
    immudb::{self, Precondition, Session, SetError, TransactionPages, TxId, verify::TrustedState},
    log::writer_ids,
    replication::{
        fencing::{self, Decision, Events, FenceReason, LocalState, Serving, SuspectReason},
        findings::Finding,
        head::{self, LogHead},
        linked,
        restore::{self, AtDamage, Copied, Divergence, LogRestore, LogRestoreError, RestoreMarker},
        state::Signal,
        tampering::Evidence,
        transaction,
    },
    sequencer::{Discontinuity, RestoreError},
};

/// A session that holds the claim.
pub(super) struct Claimed {
    pub session: Session,
    pub head_tx: TxId,
    pub reached: LogPoint,
    /// The key of the last event that ImmuDB has.
    pub last_event: Option<Bytes>,
}

/// Why the session may not write.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    /// The claim is retried.
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    Fenced(FenceReason),
    #[error("the database belongs to writer {}", head.writer)]
    FencedBy { head: LogHead },
    #[error(transparent)]
    Suspect(SuspectReason),
    #[error(transparent)]
    Diverged(Divergence),
    #[error(transparent)]
    DoesNotContinue(Discontinuity),
    #[error("log:head has an unexpected format")]
    HeadUnreadable,
    /// The history contradicts the trusted one. A second look may refute that.
    #[error(transparent)]
    Wrong(Box<Evidence>),
    /// The history that was restored has forged keys.
    #[error(transparent)]
    Tampered(Box<Evidence>),
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// Why the local log or its directory cannot be used at the moment.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocalError {
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Restore(RestoreError),
    #[error(transparent)]
    Folder(io::Error),
}

impl From<HistoryError> for ClaimError {
    fn from(error: HistoryError) -> Self {
        Self::Local(error.into())
    }
}

impl From<TrustError> for ClaimError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Immudb(error) => Self::Immudb(error),
            TrustError::Local(error) => error.into(),
            TrustError::HeadChanged => Self::Immudb(answers::head_changed()),
            TrustError::Wrong(evidence) => Self::Wrong(evidence),
        }
    }
}

impl From<LogRestoreError> for ClaimError {
    fn from(error: LogRestoreError) -> Self {
        match error {
            LogRestoreError::Immudb(error) => Self::Immudb(error),
            LogRestoreError::Diverged(error) => Self::Diverged(error),
            LogRestoreError::Contradiction(contradiction) => Self::Wrong(Box::new(contradiction.into())),
            LogRestoreError::History(error) => error.into(),
            LogRestoreError::Restore(RestoreError::DoesNotContinue(error)) => Self::DoesNotContinue(error),
            LogRestoreError::Restore(error) => Self::Local(LocalError::Restore(error)),
            LogRestoreError::Marker(error) => Self::Local(LocalError::Folder(error)),
        }
    }
}

impl Forwarder {
    /// Claims the database. Reads the head again after each step, until it names this process or
    /// the claim is refused. Nothing is written before the history was compared with the trusted
    /// one.
    pub(super) async fn claim(&mut self, session: Session) -> Result<Claimed, ClaimError> {
        loop {
            let entry = self.unless_overdue(session.get(head::KEY)).await?;
            // The head, and the transaction that wrote it.
            let head = match &entry {
                None => None,
                Some(entry) => {
                    let head = LogHead::decode(&entry.value).ok_or(ClaimError::HeadUnreadable)?;
                    Some((head, entry.tx))
                }
            };
            if let (Some(writer), Some((head, _))) = (&mut self.writer, &head) {
                writer.confirmed |= writer.id == head.writer;
            }
            let decision = self.decide_restore(&session, head.as_ref().map(|(head, _)| head)).await?;
            if decision == Decision::ClaimAndCopy {
                // Nothing may be accepted, whatever the comparison finds.
                self.apply_signal(Signal::CopyBegan);
            }
            let seen = entry.as_ref().map(|entry| (entry.tx, &entry.value));
            self.compare_history(&session, decision, seen).await?;
            match (decision, head) {
                (Decision::Resume, Some((head, seen))) => return self.resume(session, &head, seen).await,
                (Decision::Claim, Some((head, seen))) => {
                    self.learn(&session, &head, seen).await?;
                    self.end_doubt().await;
                    self.take(&session, &head, seen).await?;
                }
                (Decision::ClaimAndCopy, Some((head, seen))) => {
                    self.take_and_copy(&session, &head, seen).await?;
                }
                (Decision::ClaimEmpty | Decision::Resume | Decision::Claim | Decision::ClaimAndCopy, _) => {
                    self.take_empty(&session).await?;
                }
                (Decision::Fenced(FenceReason::OtherWriter), Some((head, tx))) => {
                    let value = entry.as_ref().map(|entry| &entry.value);
                    self.note_common(&session, &head, (tx, value)).await;
                    return Err(ClaimError::FencedBy { head });
                }
                (Decision::Fenced(fence), _) => return Err(ClaimError::Fenced(fence)),
                (Decision::Suspect(doubt), _) => return Err(ClaimError::Suspect(doubt)),
            }
        }
    }

    /// Continues after the head, which names this process.
    async fn resume(&mut self, session: Session, head: &LogHead, seen: TxId) -> Result<Claimed, ClaimError> {
        self.learn(&session, head, seen).await?;
        self.end_doubt().await;
        let (reached, mut last_event) = self.after(head)?;
        if let Some(key) = &last_event
            && self.unless_overdue(session.get(key)).await?.is_none()
        {
            if !self.trust.findings.has_accepted_deletion(key) {
                return Err(ClaimError::Suspect(SuspectReason::EventMissing));
            }
            // An operator has accepted that it is gone, so nothing may depend on it.
            last_event = None;
        }
        Ok(Claimed { session, head_tx: seen, reached, last_event })
    }

    /// Decides what to do next, and whether an unfinished restore has to go on.
    async fn decide_restore(
        &mut self,
        session: &Session,
        head: Option<&LogHead>,
    ) -> Result<Decision, ClaimError> {
        let decision = self.decide(session, head).await?;
        let is_unfinished =
            matches!(decision, Decision::Claim | Decision::Resume) && self.unfinished().exists();
        let lacks_events = |head: &LogHead| head.position < self.sequencer.tip().position;
        match (is_unfinished, head) {
            // ImmuDB was rolled back, and the operator has confirmed it: nothing is left to
            // restore.
            (true, Some(head)) if lacks_events(head) => {
                let last = self.sequencer.tip().position;
                self.unfinished().end(last).map_err(LocalError::Folder)?;
                Ok(decision)
            }
            // The end of the history, the snapshots after the last event, still has to be
            // restored.
            (true, _) => Ok(Decision::ClaimAndCopy),
            (false, _) => Ok(decision),
        }
    }

    async fn decide(&mut self, session: &Session, head: Option<&LogHead>) -> Result<Decision, ClaimError> {
        let ids = writer_ids::load(&self.settings.folder).map_err(LocalError::Folder)?;
        self.trust.owns_head = head.is_some_and(|head| ids.contains(&head.writer));
        let tip = self.sequencer.tip();
        let hash_at_head = match head.filter(|head| head.position <= tip.position) {
            Some(head) => Some(self.history.locate(head.position, tip)?.hash),
            None => None,
        };
        let events = match head {
            Some(_) => Events::OfThisService,
            None => self.events(session).await?,
        };
        let serving = if self.replication.is_serving() { Serving::Began } else { Serving::NotYet };
        let ours = LocalState {
            ids: &ids,
            current: self.writer.filter(|writer| writer.confirmed).map(|writer| writer.id),
            last: tip.position,
            forwarded: self.replication.view().forwarded.position,
            hash_at_head,
            serving,
            take_over: self.settings.take_over,
        };
        Ok(fencing::decide(head, events, &ours))
    }

    /// Returns the kind of events in the database.
    async fn events(&mut self, session: &Session) -> Result<Events, ClaimError> {
        let found = self.unless_overdue(session.scan_keys(transaction::EVENT_PREFIX.as_bytes(), 1)).await?;
        let Some(key) = found.into_iter().next() else { return Ok(Events::None) };
        let first = self.unless_overdue(session.get(&key)).await?;
        let is_of_aethyr = first.is_some_and(|entry| entry.value.starts_with(&RUBY_MARSHAL));
        Ok(if is_of_aethyr { Events::OfAethyr } else { Events::OfThisService })
    }

    /// Creates a writer id and makes it durable before it is used in a claim.
    fn new_writer(&mut self) -> Result<(), ClaimError> {
        if self.writer.is_none() {
            let id = writer_ids::add(&self.settings.folder).map_err(LocalError::Folder)?;
            CrashPoint::WriterKept.reached();
            self.writer = Some(WriterClaim { id, confirmed: false });
        }
        Ok(())
    }

    async fn take_empty(&mut self, session: &Session) -> Result<(), ClaimError> {
        self.new_writer()?;
        let condition = Precondition::KeyMustNotExist(Bytes::from_static(head::KEY));
        self.write_head(session, LogPoint::START, vec![condition]).await
    }

    async fn take(&mut self, session: &Session, head: &LogHead, seen: TxId) -> Result<(), ClaimError> {
        self.new_writer()?;
        // That of the local log, whatever tree the head has.
        let tree = self.tree_at(head.position).await;
        let place = LogPoint { position: head.position, hash: head.hash, tree, ..LogPoint::START };
        self.write_head(session, place, unchanged_since(seen)).await
    }

    async fn take_and_copy(
        &mut self,
        session: &Session,
        head: &LogHead,
        seen: TxId,
    ) -> Result<(), ClaimError> {
        let (sequencer, history) = (self.sequencer.clone(), self.history.clone());
        let unfinished = self.unfinished();
        let copy =
            LogRestore { session, sequencer: &sequencer, history: &history, unfinished: &unfinished, head };
        let first = copy.check_fit().await?;
        unfinished.begin().map_err(LocalError::Folder)?;
        if self.writer.is_none_or(|writer| writer.id != head.writer) {
            self.take(session, head, seen).await?;
        }
        let anchor = self.trust.newest().unwrap_or(TrustedState::empty());
        let at_damage = if self.settings.copy_until_damage { AtDamage::Ends } else { AtDamage::Fails };
        let Copied { tampered, lacks } = copy.run(first, anchor, at_damage).await?;
        self.sequencer.clock().renew(self.history.index.complete().recorded_at);
        if tampered.is_empty() && lacks.is_empty() {
            return Ok(());
        }
        // What was restored is whole, and can be served.
        self.apply_signal(Signal::CopyEnded);
        if !tampered.is_empty() {
            return Err(ClaimError::Tampered(Box::new(Evidence::of_keys(tampered))));
        }
        self.note_lacks(lacks).await;
        Err(ClaimError::Suspect(SuspectReason::EndDamaged))
    }

    /// Records what a restore had to leave out, and publishes how much of the log ImmuDB has: only
    /// the log knows it after a restore.
    async fn note_lacks(&mut self, lacks: Vec<Finding>) {
        for finding in lacks {
            self.trust.findings.record(finding, Timestamp::now());
        }
        self.publish_findings().await;
        let marked = self.history.index.complete().forwarded;
        let is_more = marked.position > self.replication.view().forwarded.position;
        if is_more && let Ok(located) = self.history.locate(marked.position, self.sequencer.tip()) {
            self.replication.advance(marked, located.append_end, Learned::ByHead);
        }
    }

    /// Writes the head. Whatever the outcome, the head is read next and shows it.
    async fn write_head(
        &mut self,
        session: &Session,
        place: LogPoint,
        conditions: Vec<Precondition>,
    ) -> Result<(), ClaimError> {
        let entry = self.head_entry(place, Released::No);
        let receipt = self.unless_overdue(receipts::set(session, vec![entry], conditions)).await;
        match receipt.answer {
            Ok(header) => {
                CrashPoint::HeadClaimed.reached();
                self.judge(session, &header, receipt.entries, place.tree).await?;
                if let Some(writer) = &mut self.writer {
                    writer.confirmed = true;
                    info!(writer = %writer.id, "claimed the database");
                    if !std::mem::replace(&mut self.clock_compared, true) {
                        self.sequencer.clock().compare(header.timestamp_seconds);
                    }
                }
                Ok(())
            }
            Err(error) => {
                self.note_unanswered(receipt.entries);
                match error {
                    SetError::Conflict => Ok(()),
                    SetError::NotWritten(error) | SetError::Unknown(error) => Err(error.into()),
                }
            }
        }
    }

    /// Records which transactions contain the events between the forwarded position and the head's:
    /// those whose commit was not answered, or whose mark was lost in a crash.
    async fn learn(&mut self, session: &Session, head: &LogHead, seen: TxId) -> Result<(), ClaimError> {
        let known = self.replication.view().forwarded;
        if head.position <= known.position {
            return Ok(());
        }
        let tip = self.sequencer.tip();
        let first = self.history.event_at(known.position.next(), tip)?;
        let key = transaction::event_key(&first.event.aggregate_id, first.sequence);
        let entry = self.unless_overdue(session.get(&key)).await?;
        let first = entry.map_or(seen, |entry| entry.tx);
        let mut marks: Vec<(Position, TxId)> = Vec::new();
        if first == seen {
            marks.push((head.position, seen));
        }
        let mut pages = TransactionPages::one_by_one_from(first);
        while pages.position() <= seen && marks.last().is_none_or(|(position, _)| *position < head.position) {
            let page = self.unless_overdue(pages.next(session)).await?;
            if page.is_empty() {
                break;
            }
            let known = |tx: TxId| self.trust.hash_of(tx).filter(|_| tx <= seen);
            let hashes = page.iter().map(|transaction| known(transaction.header.id)).collect();
            let checked = self.unless_overdue(linked::check_each(page, hashes)).await;
            let page = checked.map_err(TrustError::from)?;
            let heads = page.iter().filter_map(|tx| Some((restore::head_in(tx)?.position, tx.header.id)));
            let heads = heads.take_while(|(_, tx)| *tx <= seen);
            // A head of another writer may be beyond the common part of both histories.
            marks.extend(heads.map(|(position, tx)| (position.min(head.position), tx)));
        }
        marks.retain(|(position, _)| *position > known.position);
        // Later transactions at the same position are claims, or contain snapshots only.
        marks.dedup_by_key(|(position, _)| *position);
        if marks.last().is_none_or(|(position, _)| *position < head.position) {
            marks.push((head.position, seen));
        }
        let tip = self.sequencer.tip();
        let place = |position| Ok::<_, HistoryError>(self.history.locate(position, tip)?.append_end);
        let places: Vec<_> = marks.iter().map(|(position, _)| place(*position)).collect::<Result<_, _>>()?;
        for ((position, tx), place) in marks.into_iter().zip(places) {
            let mark = ReplicationMark {
                position,
                snapshots: known.snapshots,
                immudb_tx: tx.0,
                immudb_hash: self.trust.hash_of(tx),
                tampered: false,
            };
            self.sequencer.mark(mark);
            self.replication.advance(mark, place, Learned::ByHead);
        }
        Ok(())
    }

    /// Records the common part of the local history and that of another writer, which owns the
    /// database. The common part is in ImmuDB all the same.
    async fn note_common(&mut self, session: &Session, head: &LogHead, seen: (TxId, Option<&Bytes>)) {
        let (seen, value) = seen;
        let verified = match value {
            Some(value) => self.verify_other_head(session, seen, value).await,
            None => Ok(false),
        };
        match verified {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                warn!(%error, "cannot verify the other writer's history");
                return;
            }
        }
        let tip = self.sequencer.tip();
        let noted = if head.position > tip.position {
            let (sequencer, history) = (self.sequencer.clone(), self.history.clone());
            let unfinished = self.unfinished();
            let copy = LogRestore {
                session,
                sequencer: &sequencer,
                history: &history,
                unfinished: &unfinished,
                head,
            };
            match copy.check_fit().await {
                Ok(_) => self.learn(session, &LogHead { position: tip.position, ..head.clone() }, seen).await,
                Err(error) => Err(error.into()),
            }
        } else {
            match self.history.locate(head.position, tip) {
                Ok(located) if located.hash == head.hash => self.learn(session, head, seen).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        if let Err(error) = noted {
            warn!(%error, "cannot determine the common part of the local history and the other writer's \
             history");
        }
    }

    pub(super) fn unfinished(&self) -> RestoreMarker {
        RestoreMarker::new(&self.settings.folder)
    }

    /// Returns where to continue after the head's position, and the key of the event at that
    /// position.
    fn after(&self, head: &LogHead) -> Result<(LogPoint, Option<Bytes>), ClaimError> {
        let tip = self.sequencer.tip();
        let located = self.history.locate(head.position, tip)?;
        let snapshots = self.replication.view().forwarded.snapshots;
        let last_event = match head.position {
            Position(0) => None,
            position => {
                let event = self.history.event_at(position, tip)?;
                Some(transaction::event_key(&event.event.aggregate_id, event.sequence))
            }
        };
        let reached = LogPoint {
            place: located.append_end,
            position: head.position,
            hash: head.hash,
            snapshots,
            tree: None,
        };
        Ok((reached, last_event))
    }
}
