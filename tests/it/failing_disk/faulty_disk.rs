//! A disk that fails when the test says so, for the real program: a library that is preloaded into it.

use std::{fs, os::unix::fs::FileExt, path::Path};

use tempfile::NamedTempFile;

use crate::support::service::Setup;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    SyncFails,
    Full,
    OutOfFiles,
    ReadOnly,
    /// Half of the space ahead of what is written is there.
    CannotAllocate,
}

/// The faults of one service.
pub struct FaultyDisk {
    kind: NamedTempFile,
}

impl FaultyDisk {
    /// A service that is started with the setup has the faults below `folder`, which must be absolute.
    pub fn below(setup: Setup, folder: &Path) -> (Self, Setup) {
        let kind = NamedTempFile::new().unwrap();
        fs::write(kind.path(), "0").unwrap();
        let setup = setup
            .preload("tests/it/failing_disk/faulty_disk.c")
            .environment("FAULT_KIND", kind.path().to_str().unwrap())
            .environment("FAULT_BELOW", folder.to_str().unwrap());
        (Self { kind }, setup)
    }

    /// From now on, also in a service that runs.
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
