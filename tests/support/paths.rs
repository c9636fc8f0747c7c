//! Paths in the project and in cargo's target directory.
//!
//! Cargo passes the path of the target directory only to the test programs, when it compiles them.
//! Older versions do so with the path of the program as well. Here, both are derived from the path
//! of the running test or benchmark, which is `<target>/<profile>/deps/<name>`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Returns the root of the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this package is in tests/support")
}

/// Returns the path of the service's program.
pub(crate) fn program() -> PathBuf {
    // Newer versions of cargo say where it is.
    let given = env::var_os("CARGO_BIN_EXE_aethyr-event-store").map(PathBuf::from);
    let program = given.unwrap_or_else(|| profile().join("aethyr-event-store"));
    assert!(program.is_file(), "{} does not exist; cargo builds it with the tests", program.display());
    program
}

/// Returns cargo's target directory.
pub(crate) fn target() -> PathBuf {
    profile().parent().expect("the directory of a profile is in the target directory").to_owned()
}

/// Returns the directory for temporary files in the target directory.
pub(crate) fn temporary() -> PathBuf {
    let folder = target().join("tmp");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns the directory of the profile that the running test program was built with.
fn profile() -> PathBuf {
    let test = env::current_exe().expect("the path of the test program");
    let deps = test.parent().filter(|folder| folder.ends_with("deps"));
    let profile = deps.and_then(Path::parent);
    profile.unwrap_or_else(|| panic!("{} is not in <target>/<profile>/deps", test.display())).to_owned()
}
