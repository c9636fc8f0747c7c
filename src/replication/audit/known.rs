//! Which of the things that the audit finds are new. Each round finds the same ones again: those
//! that an operator has accepted are no finding any more.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tracing::warn;

use crate::{
    durable_file,
    replication::{
        findings::{self, Finding, FindingKind, Findings, StoredFinding},
        notice::Notice,
        reports::Report,
        tampering::Condition,
    },
};

/// Leaves out what is known.
#[derive(Debug)]
pub(super) struct Known {
    /// The file of the findings.
    path: PathBuf,
    /// The beginnings of other clients' keys that were reported in this run.
    foreign: BTreeSet<String>,
    /// What the file had when it was read last.
    list: Vec<StoredFinding>,
    unread: Notice,
}

impl Known {
    /// The number of findings of one transaction that are recorded at most. There may be more that
    /// the operator has accepted with them.
    const RECORDED_MAX: usize = 100;
    const FOREIGN_MAX: usize = 10_000;

    pub(super) fn new(log_path: &Path) -> Self {
        let path = durable_file::beside_log(log_path, findings::EXTENSION);
        Self { path, foreign: BTreeSet::new(), list: Vec::new(), unread: Notice::default() }
    }

    /// Returns those that an operator has to know.
    pub(super) fn only_new(&mut self, reports: Vec<Report>) -> Vec<Report> {
        if reports.is_empty() {
            return reports;
        }
        match Findings::open(&self.path) {
            Ok(findings) => self.list = findings.list().to_vec(),
            // What is known to be accepted must not be found again.
            Err(error) => {
                if let Some(times) = self.unread.add(1) {
                    warn!(%error, times, file = %self.path.display(), "cannot read the findings; what was \
                     accepted since may be found again");
                }
            }
        }
        let known = std::mem::take(&mut self.list);
        let new = reports.into_iter().filter(|report| self.is_new(report, &known)).collect();
        self.list = known;
        new
    }

    fn is_new(&mut self, report: &Report, known: &[StoredFinding]) -> bool {
        let Report { condition, finding } = report;
        if *condition == Condition::ForeignTransaction {
            let is_it = |known: &StoredFinding| {
                known.finding.kind == FindingKind::ForeignTransaction && known.finding.key == finding.key
            };
            let key = finding.key.clone().unwrap_or_default();
            let is_first = self.foreign.len() < Self::FOREIGN_MAX && self.foreign.insert(key);
            return is_first && !known.iter().any(is_it);
        }
        if condition.row().state.is_none() {
            let is_accepted = |known: &StoredFinding| {
                known.accepted.is_some()
                    && known.finding.kind == finding.kind
                    && (known.finding.transaction, &known.finding.key) == (finding.transaction, &finding.key)
            };
            return !known.iter().any(is_accepted);
        }
        !is_known_tampering(finding, known)
    }
}

/// Returns whether the tampering was accepted, or is open already as another kind.
fn is_known_tampering(finding: &Finding, known: &[StoredFinding]) -> bool {
    let Some(tx) = finding.transaction else { return false };
    let of_tx = |known: &&StoredFinding| known.finding.transaction == Some(tx);
    let is_key = |known: &StoredFinding| known.finding.key == finding.key;
    let other_kind = |known: &StoredFinding| {
        known.accepted.is_none() && known.finding.kind != finding.kind && is_tampering(known.finding.kind)
    };
    if known.iter().filter(of_tx).any(|known| is_key(known) && other_kind(known)) {
        return true;
    }
    let accepted =
        || known.iter().filter(|known| known.accepted.is_some() && is_tampering(known.finding.kind));
    // One about the chain is about everything in the transaction, and may be about the one before.
    let is_of_chain = |known: &StoredFinding| {
        let accepted_tx = known.finding.transaction;
        known.finding.key.is_none() && (accepted_tx == Some(tx) || accepted_tx == tx.checked_add(1))
    };
    accepted().any(|known| is_of_chain(known) || (of_tx(&known) && is_key(known)))
        || accepted().filter(of_tx).count() >= Known::RECORDED_MAX
}

/// Returns whether such a finding says that ImmuDB has something else than it should have.
fn is_tampering(kind: FindingKind) -> bool {
    use FindingKind::{ForeignKey, HeaderMismatch, KeyDeleted, OtherHash, Truncated};
    matches!(kind, ForeignKey | KeyDeleted | HeaderMismatch | OtherHash | Truncated)
        || Condition::RecordDiffers.row().finding == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Timestamp;

    fn report(condition: Condition, tx: u64, key: Option<&str>) -> Report {
        let finding = condition.finding("one", "another").in_transaction(tx);
        let finding = Finding { key: key.map(str::to_owned), ..finding };
        Report { condition, finding }
    }

    /// Records findings, and accepts those that are to be accepted.
    fn recorded(folder: &Path, open: &[Report], accepted: &[Report]) -> Known {
        let known = Known::new(&folder.join("log"));
        let mut findings = Findings::open(&known.path).unwrap();
        for report in accepted {
            findings.record(report.finding.clone(), Timestamp::now());
        }
        let numbers: Vec<u64> = findings.open_numbers().collect();
        findings.accept(&numbers, "a test did it", Timestamp::now());
        for report in open {
            findings.record(report.finding.clone(), Timestamp::now());
        }
        findings.save().unwrap();
        known
    }

    fn are_new(known: &mut Known, reports: &[(Condition, u64, Option<&str>)]) -> Vec<bool> {
        let is_new = |(condition, tx, key): &(Condition, u64, Option<&str>)| {
            !known.only_new(vec![report(*condition, *tx, *key)]).is_empty()
        };
        reports.iter().map(is_new).collect()
    }

    #[test]
    fn what_was_accepted_is_found_no_more() {
        use Condition::{DamagedInImmudb, KeyDeleted, KeyOverwritten, OtherHash, RecordDiffers};
        let dir = tempfile::tempdir().unwrap();
        let accepted = [
            report(KeyOverwritten, 7, Some("event:a:1")),
            report(OtherHash, 20, None),
            report(DamagedInImmudb, 30, Some("event:a:2")),
        ];
        let mut known = recorded(dir.path(), &[], &accepted);
        let found = [
            (RecordDiffers, 7, Some("event:a:1")),
            (RecordDiffers, 7, Some("event:a:9")),
            (RecordDiffers, 8, Some("event:a:1")),
            (KeyDeleted, 20, Some("event:a:3")),
            (RecordDiffers, 19, Some("event:a:3")),
            (RecordDiffers, 21, Some("event:a:3")),
            (DamagedInImmudb, 30, Some("event:a:2")),
            (DamagedInImmudb, 31, Some("event:a:2")),
            (RecordDiffers, 30, Some("event:a:2")),
        ];
        let expected = [false, true, true, false, false, true, false, true, true];
        assert_eq!(are_new(&mut known, &found), expected);
    }

    #[test]
    fn what_was_accepted_stays_known_while_the_file_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let accepted = [report(Condition::KeyOverwritten, 7, Some("event:a:1"))];
        let mut known = recorded(dir.path(), &[], &accepted);
        let found = [
            (Condition::RecordDiffers, 7, Some("event:a:1")),
            (Condition::RecordDiffers, 8, Some("event:a:2")),
        ];
        assert_eq!(are_new(&mut known, &found), [false, true]);
        std::fs::remove_file(&known.path).unwrap();
        std::fs::create_dir(&known.path).unwrap();
        assert_eq!(are_new(&mut known, &found), [false, true]);
    }

    #[test]
    fn what_is_open_is_counted_and_not_found_as_another_kind() {
        use Condition::{DamagedInImmudb, KeyOverwritten, RecordDiffers};
        let dir = tempfile::tempdir().unwrap();
        let open = [report(KeyOverwritten, 7, Some("event:a:1")), report(DamagedInImmudb, 8, Some("b"))];
        let mut known = recorded(dir.path(), &open, &[]);
        let found = [
            (KeyOverwritten, 7, Some("event:a:1")),
            (RecordDiffers, 7, Some("event:a:1")),
            (DamagedInImmudb, 8, Some("b")),
        ];
        assert_eq!(are_new(&mut known, &found), [true, false, true]);
    }

    #[test]
    fn another_client_is_reported_once_for_each_beginning_of_its_keys() {
        use Condition::ForeignTransaction;
        let dir = tempfile::tempdir().unwrap();
        let accepted = [report(ForeignTransaction, 7, Some("mine:"))];
        let open = [report(ForeignTransaction, 9, Some("yours:"))];
        let mut known = recorded(dir.path(), &open, &accepted);
        let of = |key| (ForeignTransaction, 12, Some(key));
        let found = [of("mine:"), of("yours:"), of("other:"), of("other:")];
        assert_eq!(are_new(&mut known, &found), [false, false, true, false]);
    }

    #[test]
    fn where_more_was_found_than_is_recorded_all_of_the_transaction_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<String> = (0..Known::RECORDED_MAX).map(|number| format!("event:a:{number}")).collect();
        let all = keys.iter().map(|key| report(Condition::KeyOverwritten, 7, Some(key)));
        let mut known = recorded(dir.path(), &[], &all.collect::<Vec<_>>());
        let further = [(Condition::RecordDiffers, 7, Some("b")), (Condition::RecordDiffers, 8, Some("b"))];
        assert_eq!(are_new(&mut known, &further), [false, true]);
    }
}
