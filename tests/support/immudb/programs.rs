//! The programs of `tests/immudb`: the real server, a reader that uses ImmuDB's own client, and a
//! load generator.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::go::Module;

const VERSION: &str = "1.11.1";
const MODULE: Module = Module { source: "tests/immudb", target: "immudb-1.11.1" };

/// Returns the server in the PATH if it has exactly this version, and otherwise the one built here.
pub(super) fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        if version("immudb").is_some_and(|version| version == VERSION) {
            return "immudb".into();
        }
        MODULE.build("immudb", "github.com/codenotary/immudb/cmd/immudb", &["go.mod"])
    })
}

pub(super) fn reader() -> &'static Path {
    static READER: OnceLock<PathBuf> = OnceLock::new();
    READER.get_or_init(|| MODULE.build("reader", "./reader", &["go.mod", "reader/main.go"]))
}

pub(super) fn load() -> &'static Path {
    static LOAD: OnceLock<PathBuf> = OnceLock::new();
    LOAD.get_or_init(|| MODULE.build("load", "./load", &["go.mod", "load/main.go"]))
}

/// Returns the version of a program. The first line of its output is `immudb 1.11.1`.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next()?.split_whitespace().last().map(str::to_owned)
}
