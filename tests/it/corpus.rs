//! Replays the inputs that the fuzzer found and that are worth keeping, together with handmade
//! seeds, through the same functions as the fuzzer.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use aethyr_event_store::fuzzing;
use tempfile::tempdir;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 16] = [
    ("access_file", fuzzing::access_file),
    ("aethyr_events", fuzzing::aethyr_events),
    ("authorization", fuzzing::authorization),
    ("configuration", fuzzing::configuration),
    ("damage", |bytes| fuzzing::damage(tempdir().unwrap().path(), bytes)),
    ("event_files", fuzzing::event_files),
    ("frames", fuzzing::frames),
    ("immudb", fuzzing::immudb),
    ("immudb_proofs", fuzzing::immudb_proofs),
    ("notes", fuzzing::notes),
    ("proof_files", fuzzing::proof_files),
    ("records", fuzzing::records),
    ("requests", fuzzing::requests),
    ("segments", |bytes| fuzzing::segments(tempdir().unwrap().path(), bytes)),
    ("tokens", fuzzing::tokens),
    ("tree_proofs", fuzzing::tree_proofs),
];

const FILES_MAX: usize = 60;
const BYTES_MAX: usize = 1 << 20;

fn entries(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_kept_input_holds_the_promises() {
    let mut bytes_kept = 0;
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let paths = entries(&format!("corpus/{name}"));
        assert!((1..=FILES_MAX).contains(&paths.len()), "{name} has {} files", paths.len());
        for path in paths {
            let bytes = fs::read(&path).unwrap();
            bytes_kept += bytes.len();
            if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(bytes_kept < BYTES_MAX, "{bytes_kept} bytes");
}

#[test]
fn every_target_is_replayed() {
    let names = |folder| -> BTreeSet<String> {
        let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries(folder).iter().map(stem).collect()
    };
    let replayed = TARGETS.map(|(name, _)| name.to_owned()).into();
    assert_eq!(names("fuzz_targets"), replayed);
    assert_eq!(names("corpus"), replayed);
}
