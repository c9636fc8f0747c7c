//! Go's packages for checksum databases verify whole proof files.

use std::{fs, path::Path, process::Command};

use aethyr_event_store::{grpc::wire::RecordedEvent, proof::VerifierKey};
use serde::Deserialize;
use tempfile::tempdir;

use super::file::Proof;
use crate::support::go::Module;

const MODULE: Module = Module { source: "tests/notes", target: "notes" };
const SOURCES: [&str; 4] = ["go.mod", "files.go", "main.go", "make.go"];

#[derive(Debug, Deserialize)]
struct Verdict {
    accepted: bool,
    #[serde(default)]
    why: String,
}

/// Asserts that each proof is accepted with its event, and with no other one.
pub fn assert_accepts(key: &VerifierKey, proofs: &[(RecordedEvent, Proof)]) {
    let folder = tempdir().unwrap();
    let proven: Vec<&RecordedEvent> = proofs.iter().map(|(event, _)| event).collect();
    let others: Vec<&RecordedEvent> = proven.iter().copied().cycle().skip(1).take(proven.len()).collect();
    for (name, (_, proof)) in (0..).zip(proofs) {
        fs::write(folder.path().join(format!("{name}.tlog-proof")), &proof.text).unwrap();
    }
    assert!(proofs.len() > 1, "there is no other event");
    for (events, is_right) in [(proven, true), (others, false)] {
        let verdicts = verdicts(folder.path(), key, &events);
        assert_eq!(verdicts.len(), proofs.len());
        for (event, verdict) in events.iter().zip(verdicts) {
            assert_eq!(verdict.accepted, is_right, "position {}: {}", event.position, verdict.why);
        }
    }
}

/// Returns what the program says of each proof as one of the event in the same place.
fn verdicts(folder: &Path, key: &VerifierKey, events: &[&RecordedEvent]) -> Vec<Verdict> {
    let program = MODULE.build("notes", ".", &SOURCES);
    let mut command = Command::new(program);
    command.current_dir(folder).args(["verify", &key.to_string()]);
    for (name, event) in (0..).zip(events) {
        command.arg(format!("{name}.tlog-proof")).arg(hex::encode(&event.chain_hash));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
