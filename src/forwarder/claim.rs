//! Becoming the writer: the head is read, decided on, claimed, and what our log lacks is copied.

use bytes::Bytes;
use tracing::{info, warn};

use super::{
    Forwarder, Learned, Reached, Released, Writer, batch,
    copy::{self, Copy, CopyError, Unfinished},
    decision::{self, Decision, Doubt, Events, Fence, Ours, Serving},
    head::{self, Head},
    state::Happening,
    unchanged_since,
};
use crate::{
    crash_point::CrashPoint,
    event::{
        Position,
        record::{ForwardedMark, RUBY_MARSHAL},
    },
    history::HistoryError,
    immudb::{self, KeyValue, Precondition, Session, SetError, TransactionPages, TxId},
    log::writer_ids,
    sequencer::AdoptError,
};

/// A session that may write.
pub(super) struct Claimed {
    pub session: Session,
    pub head_tx: TxId,
    pub reached: Reached,
    /// The key of the last event that ImmuDB has.
    pub last_event: Option<Bytes>,
}

/// Why it may not.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    /// Try again.
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    Fenced(Fence),
    #[error("writer {} has the database", head.writer)]
    FencedBy { head: Head },
    #[error(transparent)]
    Suspect(Doubt),
    #[error("{0}")]
    Diverged(String),
    #[error("log:head holds something else than a head")]
    HeadUnreadable,
    /// The local log or its folder can't be used just now.
    #[error("{0}")]
    Local(String),
}

impl From<HistoryError> for ClaimError {
    fn from(error: HistoryError) -> Self {
        Self::Local(error.to_string())
    }
}

impl From<CopyError> for ClaimError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Immudb(error) => Self::Immudb(error),
            CopyError::Diverged(what) => Self::Diverged(what),
            CopyError::History(error) => error.into(),
            CopyError::Adopt(error @ AdoptError::DoesNotContinue(_)) => Self::Diverged(error.to_string()),
            CopyError::Adopt(error) => Self::Local(error.to_string()),
        }
    }
}

impl Forwarder {
    /// Reads the head until it names us, or says that it may not.
    pub(super) async fn claim(&mut self, session: Session) -> Result<Claimed, ClaimError> {
        loop {
            let entry = self.unless_overdue(session.get(head::KEY)).await?;
            let head = match &entry {
                None => None,
                Some(entry) => Some(Head::decode(&entry.value).ok_or(ClaimError::HeadUnreadable)?),
            };
            let seen = entry.map_or(TxId(0), |entry| entry.tx);
            if let (Some(writer), Some(head)) = (&mut self.writer, &head) {
                writer.confirmed |= writer.id == head.writer;
            }
            let decision = self.decide(&session, head.as_ref()).await?;
            let is_unfinished =
                matches!(decision, Decision::Claim | Decision::Resume) && self.unfinished().exists();
            let lacks_events = |head: &Head| head.position < self.sequencer.tip().position;
            let decision = match (is_unfinished, &head) {
                // ImmuDB was put back, and a person has said so: there is nothing left to copy.
                (true, Some(head)) if lacks_events(head) => {
                    self.unfinished().end().map_err(|error| ClaimError::Local(error.to_string()))?;
                    decision
                }
                // Its end, the snapshots behind the last event, is still to be copied.
                (true, _) => Decision::ClaimAndCopy,
                (false, _) => decision,
            };
            match (decision, head) {
                (Decision::Resume, Some(head)) => {
                    let ours = self.learn(&session, &head, seen).await?;
                    if let Some(before) = self.own_tx.replace(seen) {
                        self.look_for_foreign(before, seen, ours);
                    }
                    let (reached, last_event) = self.after(&head)?;
                    if let Some(key) = &last_event
                        && self.unless_overdue(session.get(key)).await?.is_none()
                    {
                        return Err(ClaimError::Suspect(Doubt::EventMissing));
                    }
                    return Ok(Claimed { session, head_tx: seen, reached, last_event });
                }
                (Decision::Claim, Some(head)) => {
                    self.learn(&session, &head, seen).await?;
                    self.own_tx = Some(seen);
                    self.take(&session, &head, seen).await?;
                }
                (Decision::ClaimAndCopy, Some(head)) => self.take_and_copy(&session, &head, seen).await?,
                (Decision::ClaimEmpty | Decision::Resume | Decision::Claim | Decision::ClaimAndCopy, _) => {
                    self.take_empty(&session).await?;
                }
                (Decision::Fenced(Fence::OtherWriter), Some(head)) => {
                    self.note_common(&session, &head, seen).await;
                    return Err(ClaimError::FencedBy { head });
                }
                (Decision::Fenced(fence), _) => return Err(ClaimError::Fenced(fence)),
                (Decision::Suspect(doubt), _) => return Err(ClaimError::Suspect(doubt)),
            }
        }
    }

    async fn decide(&mut self, session: &Session, head: Option<&Head>) -> Result<Decision, ClaimError> {
        let ids =
            writer_ids::load(&self.settings.folder).map_err(|error| ClaimError::Local(error.to_string()))?;
        let tip = self.sequencer.tip();
        let hash_at_head = match head.filter(|head| head.position <= tip.position) {
            Some(head) => Some(self.history.locate(head.position, tip)?.hash),
            None => None,
        };
        let events = match head {
            Some(_) => Events::Ours,
            None => self.events(session).await?,
        };
        let serving = if self.standing.is_serving() { Serving::Began } else { Serving::NotYet };
        let ours = Ours {
            ids: &ids,
            current: self.writer.filter(|writer| writer.confirmed).map(|writer| writer.id),
            last: tip.position,
            forwarded: self.standing.view().forwarded.position,
            hash_at_head,
            serving,
            take_over: self.settings.take_over,
        };
        Ok(decision::decide(head, events, &ours))
    }

    /// What lies under the keys of events.
    async fn events(&mut self, session: &Session) -> Result<Events, ClaimError> {
        let found = self.unless_overdue(session.scan_keys(batch::EVENT_PREFIX.as_bytes(), 1)).await?;
        let Some(key) = found.into_iter().next() else { return Ok(Events::None) };
        let first = self.unless_overdue(session.get(&key)).await?;
        let is_of_aethyr = first.is_some_and(|entry| entry.value.starts_with(&RUBY_MARSHAL));
        Ok(if is_of_aethyr { Events::OfAethyr } else { Events::Ours })
    }

    /// A new writer id, kept before it is claimed with.
    fn new_writer(&mut self) -> Result<(), ClaimError> {
        if self.writer.is_none() {
            let id = writer_ids::add(&self.settings.folder)
                .map_err(|error| ClaimError::Local(error.to_string()))?;
            CrashPoint::WriterKept.reached();
            self.writer = Some(Writer { id, confirmed: false });
        }
        Ok(())
    }

    async fn take_empty(&mut self, session: &Session) -> Result<(), ClaimError> {
        self.new_writer()?;
        let entry = self.head_entry(Reached::START, Released::No);
        let condition = Precondition::KeyMustNotExist(Bytes::from_static(head::KEY));
        self.write_head(session, entry, vec![condition], None).await
    }

    async fn take(&mut self, session: &Session, head: &Head, seen: TxId) -> Result<(), ClaimError> {
        self.new_writer()?;
        let place = Reached { position: head.position, hash: head.hash, ..Reached::START };
        let entry = self.head_entry(place, Released::No);
        self.write_head(session, entry, unchanged_since(seen), Some(seen)).await
    }

    async fn take_and_copy(&mut self, session: &Session, head: &Head, seen: TxId) -> Result<(), ClaimError> {
        self.happened(Happening::CopyBegan);
        let (sequencer, history) = (self.sequencer.clone(), self.history.clone());
        let unfinished = self.unfinished();
        let copy = Copy { session, sequencer: &sequencer, history: &history, unfinished: &unfinished, head };
        let first = copy.check_fit().await?;
        unfinished.begin().map_err(|error| ClaimError::Local(error.to_string()))?;
        if self.writer.is_none_or(|writer| writer.id != head.writer) {
            self.own_tx = Some(seen);
            self.take(session, head, seen).await?;
        }
        copy.run(first).await?;
        self.sequencer.clock().renew(self.history.index.complete().recorded_at);
        Ok(())
    }

    /// Whatever comes out of it, the head is read next, and says what it was.
    async fn write_head(
        &mut self,
        session: &Session,
        entry: KeyValue,
        conditions: Vec<Precondition>,
        seen: Option<TxId>,
    ) -> Result<(), ClaimError> {
        match self.unless_overdue(session.set(vec![entry], conditions)).await {
            Ok(header) => {
                CrashPoint::HeadClaimed.reached();
                self.own_tx = Some(header.id);
                if let Some(seen) = seen {
                    self.look_for_foreign(seen, header.id, 1);
                }
                if let Some(writer) = &mut self.writer {
                    writer.confirmed = true;
                    info!(writer = %writer.id, "claimed the database");
                    if !std::mem::replace(&mut self.clock_compared, true) {
                        self.sequencer.clock().compare(header.timestamp_seconds);
                    }
                }
                Ok(())
            }
            Err(SetError::Conflict) => Ok(()),
            Err(SetError::NotWritten(error) | SetError::Unknown(error)) => Err(error.into()),
        }
    }

    /// Notes which transactions took the events between the forwarded position and the head's: those whose
    /// commit was not answered, or whose note was lost in a crash. Tells how many they are.
    async fn learn(&mut self, session: &Session, head: &Head, seen: TxId) -> Result<u64, ClaimError> {
        let known = self.standing.view().forwarded;
        if head.position <= known.position {
            // At most one without events, which went alone: ImmuDB numbers no transaction whose conditions did not hold.
            return Ok(1);
        }
        let tip = self.sequencer.tip();
        let first = self.history.event_at(known.position.next(), tip)?;
        let key = batch::event_key(&first.event.aggregate_id, first.sequence);
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
            let heads = page.iter().filter_map(|tx| Some((copy::head_in(tx)?.position, tx.header.id)));
            let heads = heads.take_while(|(_, tx)| *tx <= seen);
            // One of another writer may reach beyond what its history and ours have in common.
            marks.extend(heads.map(|(position, tx)| (position.min(head.position), tx)));
        }
        let ours = marks.len() as u64;
        marks.retain(|(position, _)| *position > known.position);
        // Later ones with the same position are claims, or carry snapshots only.
        marks.dedup_by_key(|(position, _)| *position);
        if marks.last().is_none_or(|(position, _)| *position < head.position) {
            marks.push((head.position, seen));
        }
        let tip = self.sequencer.tip();
        let place = |position| Ok::<_, HistoryError>(self.history.locate(position, tip)?.append_end);
        let places: Vec<_> = marks.iter().map(|(position, _)| place(*position)).collect::<Result<_, _>>()?;
        for ((position, tx), place) in marks.into_iter().zip(places) {
            let mark = ForwardedMark { position, snapshots: known.snapshots, immudb_tx: tx.0 };
            self.sequencer.mark(mark);
            self.standing.advance(mark, place, Learned::ByHead);
        }
        Ok(ours)
    }

    /// Another writer has the database: what its history and ours have in common is in ImmuDB all the same.
    async fn note_common(&mut self, session: &Session, head: &Head, seen: TxId) {
        let tip = self.sequencer.tip();
        let noted = if head.position > tip.position {
            let (sequencer, history) = (self.sequencer.clone(), self.history.clone());
            let unfinished = self.unfinished();
            let copy =
                Copy { session, sequencer: &sequencer, history: &history, unfinished: &unfinished, head };
            match copy.check_fit().await {
                Ok(_) => self
                    .learn(session, &Head { position: tip.position, ..head.clone() }, seen)
                    .await
                    .map(drop),
                Err(error) => Err(error.into()),
            }
        } else {
            match self.history.locate(head.position, tip) {
                Ok(located) if located.hash == head.hash => self.learn(session, head, seen).await.map(drop),
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        if let Err(error) = noted {
            warn!(%error, "what the other writer's history has in common with ours is not known");
        }
    }

    fn unfinished(&self) -> Unfinished {
        Unfinished::new(&self.settings.folder)
    }

    /// Where to go on behind the head's position, and the key of the event there.
    fn after(&self, head: &Head) -> Result<(Reached, Option<Bytes>), ClaimError> {
        let tip = self.sequencer.tip();
        let located = self.history.locate(head.position, tip)?;
        let snapshots = self.standing.view().forwarded.snapshots;
        let last_event = match head.position {
            Position(0) => None,
            position => {
                let event = self.history.event_at(position, tip)?;
                Some(batch::event_key(&event.event.aggregate_id, event.sequence))
            }
        };
        let reached =
            Reached { place: located.append_end, position: head.position, hash: head.hash, snapshots };
        Ok((reached, last_event))
    }
}
