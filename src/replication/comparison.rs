//! Compares ImmuDB with the local history, for commands that run while the service is stopped.
//!
//! Read-only. The chain hash in `log:head` vouches for everything before it. If it differs from the
//! local one, or its position is beyond the local end, a search compares records byte by byte to
//! find the last event that both have.

use super::{
    head::{self, LogHead},
    transaction,
};
use crate::{
    event::{ChainHash, Position, record},
    history::{History, HistoryError},
    immudb::{self, Session},
    log::Tip,
};

/// The local log compared with ImmuDB's database.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    /// The contents of `log:head`, or `None` if it is missing.
    pub head: Option<LogHead>,
    /// ImmuDB has the local events up to this position.
    pub common: Position,
    pub fit: HistoryRelation,
}

/// How the two histories continue after their common part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryRelation {
    /// ImmuDB has no head and no events.
    Empty,
    /// ImmuDB has events, but no head that would tell what they are.
    HeadMissing,
    /// ImmuDB ends there. It can accept the local events after it.
    Behind,
    /// The local log ends there. ImmuDB has all of it.
    Whole,
    /// The two have different events there. ImmuDB cannot accept the local ones.
    Diverged,
}

/// Why the comparison failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComparisonError {
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("log:head has an unexpected format; use a new database name")]
    HeadUnreadable,
    #[error("the events in ImmuDB do not match its log:head: they were modified in ImmuDB")]
    HeadElsewhere,
}

impl Comparison {
    /// Compares the local log up to `tip` with ImmuDB.
    ///
    /// # Errors
    /// Returns an error if ImmuDB or the log cannot be read, or if ImmuDB contradicts itself.
    pub(crate) async fn ask(session: &Session, history: &History, tip: Tip) -> Result<Self, ComparisonError> {
        let Some(entry) = session.get(head::KEY).await? else {
            let events = session.scan_keys(transaction::EVENT_PREFIX.as_bytes(), 1).await?;
            if events.is_empty() {
                return Ok(Self { head: None, common: Position(0), fit: HistoryRelation::Empty });
            }
            let common = last_common(session, history, tip, tip.position).await?;
            return Ok(Self { head: None, common, fit: HistoryRelation::HeadMissing });
        };
        let head = LogHead::decode(&entry.value).ok_or(ComparisonError::HeadUnreadable)?;
        let reaches = head.position <= tip.position;
        if reaches && history.locate(head.position, tip)?.hash == head.hash {
            let fit =
                if head.position == tip.position { HistoryRelation::Whole } else { HistoryRelation::Behind };
            return Ok(Self { common: head.position, head: Some(head), fit });
        }
        let common = last_common(session, history, tip, tip.position.min(head.position)).await?;
        let fit = match (common == tip.position, common == head.position) {
            (_, true) => return Err(ComparisonError::HeadElsewhere),
            (true, false) => HistoryRelation::Whole,
            (false, false) => HistoryRelation::Diverged,
        };
        Ok(Self { head: Some(head), common, fit })
    }
}

/// Returns the position of the last local event up to `until` that ImmuDB has. Everything before a
/// common event is common too, so this is a binary search.
async fn last_common(
    session: &Session,
    history: &History,
    tip: Tip,
    until: Position,
) -> Result<Position, ComparisonError> {
    let (mut common, mut other) = (0u64, until.0.saturating_add(1));
    while other > common.saturating_add(1) {
        let middle = common.midpoint(other);
        let ours = history.record_at(Position(middle), tip)?;
        let event = record::decode(ours.bytes.clone(), ChainHash::START)
            .map_err(|_| HistoryError::Position(Position(middle)))?;
        let theirs = session.get(&transaction::event_key(&event.event.aggregate_id, event.sequence)).await?;
        if theirs.is_some_and(|theirs| theirs.value == ours.bytes) { common = middle } else { other = middle }
    }
    Ok(Position(common))
}
