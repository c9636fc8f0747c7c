//! A disk that fails on command, for the real program.
//!
//! It is a library that is preloaded into the service.

use std::{fs, os::unix::fs::FileExt, path::Path};

use tempfile::NamedTempFile;

use crate::support::service::Setup;

/// The kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    SyncFails,
    Full,
    OutOfFiles,
    ReadOnly,
    /// Only half of the space that is allocated ahead becomes available.
    CannotAllocate,
}

/// The faults of one service.
pub struct FaultyDisk {
    kind: NamedTempFile,
}

impl FaultyDisk {
    /// Adds the faults below `folder`, which must be absolute, to a service that is started with
    /// the returned setup.
    pub fn below(setup: Setup, folder: &Path) -> (Self, Setup) {
        let kind = NamedTempFile::new().unwrap();
        fs::write(kind.path(), "0").unwrap();
        let setup = setup
            .preload("tests/it/failing_disk/faulty_disk.c")
            .environment("FAULT_KIND", kind.path().to_str().unwrap())
            .environment("FAULT_BELOW", folder.to_str().unwrap());
        (Self { kind }, setup)
    }

    /// Sets the fault from now on, also for a running service.
    pub fn set(&self, fault: Fault) {
        let letter = match fault {
            Fault::Nothing => b'0',
            Fault::SyncFails => b's',
            Fault::Full => b'w',
            Fault::OutOfFiles => b'f',
            Fault::ReadOnly => b'r',
            Fault::CannotAllocate => b'a',
        };
        self.kind.as_file().write_all_at(&[letter], 0).unwrap();
    }
}
