//! `findings`: lists what contradicted the history in ImmuDB, as text or as JSON.
//!
//! Only the file of the findings is read, and nothing is changed, so the service may be running.

use std::path::Path;

use serde_json::Value;

use super::{Error, client::print};
use crate::{
    durable_file::beside_log,
    event::time,
    replication::findings::{EXTENSION, Findings, StoredFinding},
};

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Several lines for each finding, and a line with the totals.
    Text,
    /// An object for each finding, as in the file, one per line.
    Json,
}

/// Prints the findings of the log in `log_path`, oldest first.
///
/// # Errors
/// Returns an error if the file cannot be read, or if standard output is closed.
pub(super) fn list(log_path: &Path, form: Form) -> Result<(), Error> {
    let path = beside_log(log_path, EXTENSION);
    let findings = Findings::open(&path).map_err(|error| Error::of_file(&path, error))?;
    for found in findings.list() {
        match form {
            Form::Text => lines(found).iter().try_for_each(|line| print(line))?,
            Form::Json => {
                let object = serde_json::to_string(found);
                print(&object.map_err(|error| Error::of_file(&path, error.into()))?)?;
            }
        }
    }
    match form {
        Form::Text => totals(&findings).iter().try_for_each(|line| print(line)),
        Form::Json => Ok(()),
    }
}

/// Returns how many findings there are, and how many of them are not in the list.
fn totals(findings: &Findings) -> Vec<String> {
    let (open, listed) = (findings.open_count(), findings.open_numbers().count() as u64);
    let accepted = (findings.list().len() as u64).saturating_sub(listed);
    let mut lines = vec![format!("findings: open {open}, accepted {accepted}")];
    if open > listed {
        let more = open.saturating_sub(listed);
        lines.push(format!("not listed: {more}; at most {} findings are kept", Findings::MAX));
    }
    if findings.damaged_lines() > 0 {
        lines.push(format!("damaged: {} lines of the file, which are not listed", findings.damaged_lines()));
    }
    lines
}

/// Returns a finding as lines of text.
fn lines(stored: &StoredFinding) -> Vec<String> {
    let found = &stored.finding;
    let mut heading = format!("finding {}: {}", stored.number, kind(stored));
    if let Some(transaction) = found.transaction {
        heading.push_str(&format!(", transaction {transaction}"));
    }
    if let Some(key) = &found.key {
        heading.push_str(&format!(", key {key}"));
    }
    let (first, last) = (time::format(stored.first_seen), time::format(stored.last_seen));
    let seen = match stored.count {
        0 | 1 => format!("  seen: {first}"),
        count => format!("  seen: {count} times, {first} to {last}"),
    };
    let mut lines =
        vec![heading, format!("  expected: {}", found.expected), format!("  found: {}", found.found), seen];
    lines.extend(
        stored
            .accepted
            .as_ref()
            .map(|accepted| format!("  accepted: {}, {}", time::format(accepted.at), accepted.because)),
    );
    lines
}

/// Returns the name of the kind, as in the file.
fn kind(stored: &StoredFinding) -> String {
    let name = serde_json::to_value(stored.finding.kind);
    name.ok().as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Timestamp,
        replication::findings::{Acceptance, Finding, FindingKind},
    };

    fn stored() -> StoredFinding {
        let at = |seconds| Timestamp::new(seconds, 0).unwrap();
        StoredFinding {
            number: 3,
            finding: Finding {
                kind: FindingKind::KeyDeleted,
                transaction: Some(7),
                key: Some("event:room-1:1".to_owned()),
                expected: "a value".to_owned(),
                found: "a deletion".to_owned(),
            },
            first_seen: at(0),
            last_seen: at(60),
            count: 2,
            accepted: None,
        }
    }

    #[test]
    fn damaged_lines_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.findings");
        let line = serde_json::to_string(&stored()).unwrap();
        std::fs::write(&path, format!("{line}\n{{}}\n{line}x\n")).unwrap();
        let findings = Findings::open(&path).unwrap();
        let expected = ["findings: open 1, accepted 0", "damaged: 2 lines of the file, which are not listed"];
        assert_eq!(totals(&findings), expected);
    }

    #[test]
    fn a_finding_says_what_was_expected_and_found_and_how_often() {
        let expected = [
            "finding 3: key_deleted, transaction 7, key event:room-1:1",
            "  expected: a value",
            "  found: a deletion",
            "  seen: 2 times, 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z",
        ];
        assert_eq!(lines(&stored()), expected);
        let finding =
            Finding { kind: FindingKind::WrongAnswer, transaction: None, key: None, ..stored().finding };
        let at = Timestamp::new(120, 0).unwrap();
        let accepted = Some(Acceptance { because: "known".to_owned(), at });
        let once = StoredFinding { finding, count: 1, accepted, ..stored() };
        let shown = lines(&once);
        assert_eq!(shown[0], "finding 3: wrong_answer");
        assert_eq!(shown[3..], ["  seen: 1970-01-01T00:00:00Z", "  accepted: 1970-01-01T00:02:00Z, known"]);
    }
}
