//! The boundaries between the modules, the limits on the size of a file, and the language.
//!
//! These tests read the sources; they run nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

mod layers;
mod words;

const LINES_MAX: usize = 500;

fn sources(folder: &str) -> Vec<(String, String)> {
    let found = files(folder, "rs");
    assert!(found.len() > 5, "no sources in {folder}");
    found
}

/// Returns the files below a directory with this extension, by path from the root. The output of
/// builds is left out.
pub fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        for path in entries {
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

/// Returns the files outside of `rooms` that contain `word` outside of comments.
fn outside(rooms: &[&str], word: &str) -> Vec<String> {
    let has =
        |text: &str| text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word));
    sources("src")
        .into_iter()
        .filter(|(name, text)| !rooms.iter().any(|room| name.starts_with(room)) && has(text))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn no_file_outgrows_its_reader() {
    for folder in ["src", "tests"] {
        for (name, text) in sources(folder) {
            assert!(text.lines().count() <= LINES_MAX, "{name} has {} lines", text.lines().count());
        }
    }
}

#[test]
fn each_wire_stays_in_its_room() {
    let nobody: [&str; 0] = [];
    // The server only passes generated services to tonic; the event record has its own messages.
    assert_eq!(outside(&["src/grpc", "src/server", "src/event/record.rs"], "wire::"), nobody);
    assert_eq!(outside(&["src/immudb"], "schema::"), nobody);
    // Statuses are created in one place, from an error. Those of ImmuDB are only read, and `health`
    // only reads ours.
    assert_eq!(outside(&["src/grpc/status.rs", "src/immudb/error/tests.rs"], " Status::"), nobody);
    assert_eq!(outside(&["src/grpc/status.rs", "src/immudb/error/tests.rs"], "(Status::"), nobody);
    assert_eq!(outside(&["src/grpc/status.rs"], "ErrorDetails"), nobody);
}

#[test]
fn each_library_that_may_be_exchanged_has_one_user() {
    let nobody: [&str; 0] = [];
    assert_eq!(outside(&["src/retry.rs"], "backoff::"), nobody);
    assert_eq!(outside(&["src/config", "src/access"], "serde_yaml"), nobody);
    assert_eq!(outside(&["src/index/table"], "fastbloom::"), nobody);
    assert_eq!(outside(&["src/progress.rs"], "indicatif::"), nobody);
    assert_eq!(outside(&["src/grpc/json_client.rs"], "prost_reflect"), nobody);
    assert_eq!(outside(&["src/world.rs", "src/world/read_models"], "rusqlite"), nobody);
}

#[test]
fn the_log_knows_nothing_of_the_network() {
    for (name, text) in sources("src") {
        if name.starts_with("src/log") || name.starts_with("src/index") || name.starts_with("src/event.rs") {
            for forbidden in ["tonic", "crate::grpc", "crate::immudb", "crate::replication"] {
                assert!(!text.contains(forbidden), "{name} knows {forbidden}");
            }
        }
        if name.starts_with("src/immudb") {
            for forbidden in ["crate::event", "crate::log", "crate::replication", "crate::store"] {
                assert!(!text.contains(forbidden), "{name} knows {forbidden}");
            }
        }
    }
}

#[test]
fn nothing_of_the_store_knows_the_world() {
    let above = ["src/world", "src/grpc", "src/server", "src/cli", "src/lib.rs"];
    let nobody: [&str; 0] = [];
    assert_eq!(outside(&above, "world::"), nobody);
    for (name, text) in sources("src/world") {
        for forbidden in ["tonic", "crate::grpc", "crate::immudb", "crate::replication"] {
            assert!(!text.contains(forbidden), "{name} knows {forbidden}");
        }
    }
    // Aggregates and rules are pure: no store, no disk, no clock.
    let pure = |name: &str| name.starts_with("src/world/model") || name.starts_with("src/world/rules");
    for (name, text) in sources("src/world").into_iter().filter(|(name, _)| pure(name)) {
        for forbidden in ["crate::store", "tokio", "std::fs", "std::time", "rusqlite", "async "] {
            assert!(!text.contains(forbidden), "{name} knows {forbidden}");
        }
    }
}

#[test]
fn the_map_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let held: Vec<&str> = map.lines().filter(|line| line.starts_with("//! | ")).collect();
    assert!(held.len() >= 11, "the table of promises is gone");
    for line in held.iter().skip(1).filter(|line| !line.contains("---")) {
        let names = line.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2);
        for name in names {
            let path = match name.strip_suffix("::tests") {
                Some(module) => root.join("src").join(module).join("tests.rs"),
                None => root.join("tests/it").join(name).with_extension("rs"),
            };
            assert!(path.exists(), "{name} is named by src/lib.rs, and does not exist");
        }
    }
}
