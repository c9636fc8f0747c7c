//! A disk that fails when the test says so, for the real program: a library that is preloaded into it.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

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
            .environment("LD_PRELOAD", library().to_str().unwrap())
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
        };
        self.kind.as_file().write_all_at(&[letter], 0).unwrap();
    }
}

/// Built once, by the C compiler that Rust's linker needs anyway.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/failing_disk/faulty_disk.c");
        let folder = tempfile::Builder::new().prefix("faulty-disk-").tempdir().unwrap().keep();
        let library = folder.join("faulty_disk.so");
        let built = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status();
        assert!(built.expect("a C compiler").success(), "the library does not compile");
        library
    })
}
