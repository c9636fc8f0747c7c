//! C libraries for `LD_PRELOAD`.
//!
//! The program under test calls their functions instead of the system's.

use std::{collections::BTreeMap, path::PathBuf, process::Command, sync::Mutex};

use super::paths;

/// Returns the path of the library built from `source`, which is relative to the project root.
///
/// The library is built once per run, by the C compiler that Rust's linker needs anyway.
pub(crate) fn library(source: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap();
    built.entry(source.to_owned()).or_insert_with(|| build(source)).clone()
}

fn build(source: &str) -> PathBuf {
    let source = paths::root().join(source);
    let folder = paths::temporary();
    let name = format!("{}.so", source.file_stem().unwrap().display());
    // Another run may be using the existing library.
    let new = tempfile::Builder::new().prefix(&name).tempfile_in(&folder).unwrap().into_temp_path();
    let output = ["-O1", "-shared", "-fPIC", "-o"];
    let status = Command::new("cc").args(output).args([&*new, &*source]).args(["-ldl", "-lpthread"]).status();
    assert!(status.expect("a C compiler").success(), "{} does not compile", source.display());
    let library = folder.join(name);
    new.persist(&library).unwrap();
    library
}
