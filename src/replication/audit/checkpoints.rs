//! Compares the checkpoints that transactions have stored with the history. Only the module that
//! signs them knows which of them count: some are of histories that an operator has given up.

use std::{fmt, sync::Arc};

use crate::{
    immudb::Transaction,
    replication::{reports::Report, tampering::Condition, transaction::parse_checkpoint_key},
};

/// Knows the history that checkpoints are of. Blocks on the disk.
pub(crate) trait CheckpointJudge: fmt::Debug + Send + Sync {
    /// Returns what should be in ImmuDB as the checkpoint of `size` events, and what `value` is
    /// instead. `None` if the history continues it, or if that is not known now.
    fn contradiction(&self, size: u64, value: &[u8]) -> Option<(String, String)>;
}

/// The judge, if there is one.
pub(crate) type Judge = Option<Arc<dyn CheckpointJudge>>;

/// Returns what is wrong with the checkpoints that a transaction has stored.
pub(super) fn compare(transaction: &Transaction, judge: &dyn CheckpointJudge) -> Vec<Report> {
    let differing = transaction.entries.iter().filter_map(|(key, value)| {
        let (expected, found) = judge.contradiction(parse_checkpoint_key(key)?, value)?;
        let condition = Condition::RecordDiffers;
        let finding = condition.finding(expected, found).in_transaction(transaction.header.id.0);
        Some(Report { condition, finding: finding.of_key(key) })
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        immudb::{TxHeader, TxId},
        replication::transaction::checkpoint_key,
    };

    /// Takes the value `right` for a checkpoint.
    #[derive(Debug)]
    struct Right;

    impl CheckpointJudge for Right {
        fn contradiction(&self, size: u64, value: &[u8]) -> Option<(String, String)> {
            (value != b"right").then(|| (format!("that of {size} events"), "another".to_owned()))
        }
    }

    #[test]
    fn a_checkpoint_that_was_overwritten_together_with_the_head_shows() {
        let header = TxHeader {
            id: TxId(9),
            previous_hash: [0; 32],
            timestamp_seconds: 0,
            entry_count: 4,
            entries_hash: [0; 32],
            tree_tx: TxId(8),
            tree_root: [0; 32],
            version: 1,
            metadata: None,
        };
        let head = Bytes::from_static(b"log:head");
        let right = Bytes::from_static(b"right");
        let entries = vec![
            (checkpoint_key(5), right.clone()),
            (head.clone(), head.clone()),
            (checkpoint_key(7), head.clone()),
            (Bytes::from_static(b"checkpoint:8"), head),
        ];
        let reports = compare(&Transaction { header, entries }, &Right);
        let [report] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!((report.condition, report.finding.transaction), (Condition::RecordDiffers, Some(9)));
        assert_eq!(report.finding.key.as_deref(), std::str::from_utf8(&checkpoint_key(7)).ok());
        assert_eq!(report.finding.expected, "that of 7 events");
    }
}
