//! Files of other versions.

use super::*;

/// Returns the file of a tree with another version in its header.
fn of_version(version: u8, log: &Log, path: &Path) -> Vec<u8> {
    let mut bytes = file_of(log, path);
    bytes[8] = version;
    let checksum = crc32c::crc32c(&bytes[..44]);
    bytes[44..48].copy_from_slice(&checksum.to_le_bytes());
    fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn a_file_of_an_earlier_version_is_built_again() {
    let (_dir, path) = place();
    let log = Log::new(600);
    let before = of_version(1, &log, &path);
    assert_eq!(EventTree::open(&path, LOG, 600, &log).unwrap().size(), 0, "its nodes are others");
    log.is_proven_by(&log.tree(&path));
    let after = fs::read(&path).unwrap();
    assert_eq!((after[8], after.len()), (2, before.len()));
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let (_dir, path) = place();
    let log = Log::new(600);
    let bytes = of_version(3, &log, &path);
    let refused = EventTree::open(&path, LOG, 600, &log).unwrap_err();
    assert!(matches!(&refused, TreeError::File(TreeFileError::Newer { found: 3, .. })));
    assert!(refused.to_string().contains("version 3 of the tree file"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
