//! Tells whether a state of ImmuDB that ends before the trusted one is an earlier state of this
//! history, as after the restore of a backup. The replication marks in the log have the hashes.

use super::{
    examination::{Examiner, Heads},
    ledger::Contradiction,
    tampering::Evidence,
};
use crate::{
    event::{Position, record},
    history::{History, HistoryError},
    immudb::{
        self, Session, TransactionKeys, TxId,
        verify::{HeaderMismatch, TrustedState},
    },
    log::{Frame, Tip},
};

/// The number of transactions in one answer.
pub(super) const PAGE: u32 = 256;

/// How a state relates to the history before the trusted state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PastState {
    /// It was a state of this history. What was written behind the last mark is of this service, or
    /// leaves its keys alone.
    OfThisHistory,
    /// It was not.
    Other(Evidence),
    /// The log has no hash for it: it is empty, or an earlier version of the program wrote the
    /// marks.
    Unknown,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PastStateError {
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Compares ImmuDB's state `found` with the marks in the log, which ends at `tip`.
///
/// # Errors
/// Returns an error if ImmuDB or the log cannot be read.
pub(crate) async fn compare(
    session: &Session,
    history: &History,
    tip: Tip,
    found: TrustedState,
) -> Result<PastState, PastStateError> {
    if found == TrustedState::empty() {
        return Ok(PastState::OfThisHistory);
    }
    let (reader, until) = (history.clone(), found.tx);
    let marks = tokio::task::spawn_blocking(move || marks_up_to(&reader, tip, until));
    let marks = match marks.await {
        Ok(marks) => marks?,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        },
    };
    let mut past = PastState::Unknown;
    for (position, mark) in marks.into_iter().rev() {
        past = behind(session, history, (position, mark), found).await?;
        if past == PastState::OfThisHistory {
            break;
        }
    }
    Ok(past)
}

/// Checks that the transactions from a mark on lead to the state, and what they wrote.
async fn behind(
    session: &Session,
    history: &History,
    (position, mark): (Position, TrustedState),
    found: TrustedState,
) -> Result<PastState, PastStateError> {
    let mut examiner = Examiner::new(history, Heads::Local, position);
    let mut reached: Option<TrustedState> = None;
    while reached.is_none_or(|reached| reached.tx < found.tx) {
        let first = reached.map_or(mark.tx, |reached| reached.tx.next());
        let page = session.scan_headers(first, PAGE).await?;
        if page.is_empty() {
            return Ok(PastState::Other(Contradiction::Missing { expected: first }.into()));
        }
        for transaction in page.iter().filter(|transaction| transaction.header.id <= found.tx) {
            match next(reached, transaction) {
                Ok(state) if reached.is_none() && state != mark => {
                    let other =
                        Contradiction::OtherHash { tx: mark.tx, expected: mark.alh, found: state.alh };
                    return Ok(PastState::Other(other.into()));
                }
                Ok(state) => {
                    if reached.is_some() {
                        examiner.examine(transaction)?;
                    }
                    reached = Some(state);
                }
                Err(mismatch) => {
                    return Ok(PastState::Other(Contradiction::Header(mismatch).into()));
                }
            }
        }
    }
    if let Some(reached) = reached
        && let Err(contradiction) = Contradiction::check(found, reached)
    {
        return Ok(PastState::Other(contradiction.into()));
    }
    let tampered = examiner.report().tampered;
    Ok(if tampered.is_empty() {
        PastState::OfThisHistory
    } else {
        PastState::Other(Evidence::of_keys(tampered))
    })
}

/// Returns the state after a transaction that follows the one with the state `before`, if that is
/// known.
fn next(before: Option<TrustedState>, transaction: &TransactionKeys) -> Result<TrustedState, HeaderMismatch> {
    let header = &transaction.header;
    let tx = header.id;
    transaction.check()?;
    if let Some(before) = before.filter(|before| before.alh != header.previous_hash) {
        let (expected, found) = (before.alh, header.previous_hash);
        return Err(HeaderMismatch::PreviousHash { tx, expected, found });
    }
    let alh = header.accumulated_hash().ok_or(HeaderMismatch::Version { tx, found: header.version })?;
    Ok(TrustedState { tx, alh })
}

/// Returns the last mark with a hash up to the transaction `until`, with its position. After each
/// time that ImmuDB lost transactions, there is one more, the newest last.
fn marks_up_to(
    history: &History,
    tip: Tip,
    until: TxId,
) -> Result<Vec<(Position, TrustedState)>, HistoryError> {
    let Some(position) = last_committed(history, tip, until)? else { return Ok(Vec::new()) };
    let mut cursor = history.cursor_before(position)?;
    let mut found: Vec<(Position, TrustedState)> = Vec::new();
    let mut before = TxId(0);
    let mut is_new = true;
    while let Some(read) = cursor.next(tip.end)? {
        let Frame::Mark(bytes) = read.frame else { continue };
        // A mark that cannot be decoded is damage, which reads of events report.
        let Ok(mark) = record::decode_mark(bytes) else { continue };
        let tx = TxId(mark.immudb_tx);
        is_new |= tx < before;
        before = tx;
        let Some(alh) = mark.immudb_hash.filter(|_| tx > TxId(0) && tx <= until) else { continue };
        if !std::mem::replace(&mut is_new, false) {
            found.pop();
        }
        found.push((mark.position, TrustedState { tx, alh }));
    }
    Ok(found)
}

/// Returns the last position that was committed up to the transaction `until`, or `None` if there
/// is none.
fn last_committed(history: &History, tip: Tip, until: TxId) -> Result<Option<Position>, HistoryError> {
    let (mut committed, mut behind) = (0u64, tip.position.0.saturating_add(1));
    while behind > committed.saturating_add(1) {
        let middle = committed.midpoint(behind);
        let tx = history.index.transaction(Position(middle), history.wait_mode)?;
        if tx.is_some_and(|tx| tx <= until.0) { committed = middle } else { behind = middle }
    }
    Ok((committed > 0).then_some(Position(committed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::record::ReplicationMark,
        sequencer::{
            Origin, Sequencer,
            tests::{in_folder, one_event, start},
        },
    };

    fn hash(number: u8) -> Option<[u8; 32]> {
        Some([number; 32])
    }

    /// Appends one event, and marks it as committed.
    async fn append(sequencer: &Sequencer, immudb_tx: u64, immudb_hash: Option<[u8; 32]>) {
        sequencer.append(one_event("room-1"), Origin::default()).await.unwrap();
        let position = sequencer.tip().position;
        sequencer.mark(ReplicationMark { position, immudb_tx, immudb_hash, ..ReplicationMark::default() });
        sequencer.drain().await;
    }

    #[tokio::test]
    async fn the_last_mark_up_to_a_transaction_is_found_also_after_a_restore_of_immudb() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let found = |until: u64| -> Vec<(u64, u64, u8)> {
            let marks = marks_up_to(&running.history, running.sequencer.tip(), TxId(until)).unwrap();
            marks.iter().map(|(position, mark)| (position.0, mark.tx.0, mark.alh[0])).collect()
        };
        assert!(found(100).is_empty());
        append(&running.sequencer, 10, None).await;
        assert!(found(100).is_empty(), "a mark of an earlier version has no hash");
        for (tx, number) in [(20, 2), (30, 3), (40, 4)] {
            append(&running.sequencer, tx, hash(number)).await;
        }
        assert!(found(9).is_empty());
        assert_eq!(found(20), [(2, 20, 2)]);
        assert_eq!(found(29), [(2, 20, 2)]);
        assert_eq!(found(1000), [(4, 40, 4)]);
        // ImmuDB was put back to transaction 30, and got the rest again.
        let position = Position(3);
        let back = ReplicationMark { position, immudb_tx: 30, immudb_hash: hash(3), ..Default::default() };
        running.sequencer.mark(back);
        let again = ReplicationMark { position: Position(4), immudb_tx: 33, immudb_hash: hash(5), ..back };
        running.sequencer.mark(again);
        append(&running.sequencer, 36, hash(6)).await;
        assert_eq!(found(34), [(3, 30, 3), (4, 33, 5)]);
        assert_eq!(found(40), [(4, 40, 4), (5, 36, 6)]);
    }
}
