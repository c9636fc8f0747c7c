//! What ImmuDB has of the local history, for the command line to ask while the service is stopped.
//!
//! Reads only. The hash in `log:head` answers for everything before it; where it is another than ours, or
//! lies beyond our end, the last event that both have is searched by its record, byte by byte.

use super::{
    batch,
    head::{self, Head},
};
use crate::{
    event::{Hash, Position, record},
    history::{History, HistoryError},
    immudb::{self, Session},
    log::Tip,
};

/// The local log beside ImmuDB's database.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What `log:head` says; `None` where it is missing.
    pub head: Option<Head>,
    /// ImmuDB has the local events up to here.
    pub common: Position,
    pub fit: Fit,
}

/// How the two go on behind what they have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// There is no head, and no event.
    Empty,
    /// There are events, and no head that would say what they are.
    HeadMissing,
    /// ImmuDB ends there: it can take the local events behind it.
    Behind,
    /// The local log ends there: ImmuDB has everything.
    Whole,
    /// Both have other events there: ImmuDB can't take the local ones.
    Diverged,
}

/// Why they can't be compared.
#[derive(Debug, thiserror::Error)]
pub enum ComparisonError {
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("log:head holds something else than a head: use a new database name")]
    HeadUnreadable,
    #[error("ImmuDB's own events do not lead to its log:head: they were changed there")]
    HeadElsewhere,
}

impl Comparison {
    /// # Errors
    /// ImmuDB or the log can't be read, or ImmuDB contradicts itself.
    pub async fn ask(session: &Session, history: &History, tip: Tip) -> Result<Self, ComparisonError> {
        let Some(entry) = session.get(head::KEY).await? else {
            let events = session.scan_keys(batch::EVENT_PREFIX.as_bytes(), 1).await?;
            return Ok(match events.is_empty() {
                true => Self { head: None, common: Position(0), fit: Fit::Empty },
                false => {
                    let common = last_common(session, history, tip, tip.position).await?;
                    Self { head: None, common, fit: Fit::HeadMissing }
                }
            });
        };
        let head = Head::decode(&entry.value).ok_or(ComparisonError::HeadUnreadable)?;
        let reaches = head.position <= tip.position;
        if reaches && history.locate(head.position, tip)?.hash == head.hash {
            let fit = if head.position == tip.position { Fit::Whole } else { Fit::Behind };
            return Ok(Self { common: head.position, head: Some(head), fit });
        }
        let common = last_common(session, history, tip, tip.position.min(head.position)).await?;
        let fit = match (common == tip.position, common == head.position) {
            (_, true) => return Err(ComparisonError::HeadElsewhere),
            (true, false) => Fit::Whole,
            (false, false) => Fit::Diverged,
        };
        Ok(Self { head: Some(head), common, fit })
    }
}

/// The last of our events up to `until` that ImmuDB has. What comes before a common event is common too,
/// so it is halved, not walked through.
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
        let event = record::decode(ours.bytes.clone(), Hash::START)
            .map_err(|_| HistoryError::Position(Position(middle)))?;
        let theirs = session.get(&batch::event_key(&event.event.aggregate_id, event.sequence)).await?;
        match theirs.is_some_and(|theirs| theirs.value == ours.bytes) {
            true => common = middle,
            false => other = middle,
        }
    }
    Ok(Position(common))
}
