//! Tests the documentation: its sessions are played against the real program, its links are valid,
//! and each block of commands names the test that plays it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use markdown::{Block, Page};

use crate::phrases::banned_in;

pub mod console;
pub mod markdown;
mod names;
mod setups;
pub mod transcript;

const README_BYTES_MAX: u64 = 8 * 1024;
/// Languages of blocks that are not executed.
const SHOWN: [&str; 9] = ["text", "json", "yaml", "toml", "ruby", "python", "rust", "protobuf", "sql"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README, ARCHITECTURE, CHANGELOG and everything below `docs`, by path from the root.
fn pages() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                paths.push(path);
            }
        }
    }
    paths.extend(fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let pages: Vec<Page> = paths.iter().map(|path| Page::read(root(), path)).collect();
    assert!(pages.len() > 20, "the documentation is gone");
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_as_they_are_printed() {
    let pages = pages();
    let mut played = 0;
    for page in pages.iter().filter(|page| page.blocks.iter().any(Block::is_session)) {
        played += console::play(&pages, page).await;
    }
    assert!(played >= 20, "{played} commands were played");
}

#[test]
fn each_block_of_commands_says_what_plays_it() {
    for page in pages() {
        for block in &page.blocks {
            let place = format!("{}:{}", page.path, block.line);
            match block.language.as_str() {
                "console" => {
                    assert!(block.lines[0].starts_with("$ "), "{place}: a session starts with a command")
                }
                "sh" => {
                    let says = block.lines[0].as_str();
                    let script = says.strip_prefix("# Played by ").and_then(|says| says.strip_suffix('.'));
                    match script {
                        Some(script) => {
                            assert!(root().join(script).is_file(), "{place}: {script} does not exist")
                        }
                        None => assert_eq!(says, "# Not played.", "{place}"),
                    }
                }
                language => assert!(SHOWN.contains(&language), "{place}: unknown language {language:?}"),
            }
        }
    }
}

#[test]
fn internal_links_lead_somewhere() {
    let pages = pages();
    let anchors = |path: &Path| -> Option<&BTreeSet<String>> {
        let found = pages.iter().find(|page| root().join(&page.path) == path)?;
        Some(&found.anchors)
    };
    let mut links = 0;
    for page in &pages {
        let from = root().join(&page.path);
        for (line, link) in &page.links {
            let place = format!("{}:{line}: {link}", page.path);
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { from.clone() } else { from.parent().unwrap().join(path) };
            let target = target.canonicalize().unwrap_or_else(|_| panic!("{place}: no such file"));
            assert!(target.starts_with(root().canonicalize().unwrap()), "{place}: outside of the repository");
            if !anchor.is_empty() {
                let anchors = anchors(&target).unwrap_or_else(|| panic!("{place}: not a page"));
                assert!(anchors.contains(anchor), "{place}: no such heading");
            }
            links += 1;
        }
    }
    assert!(links > 50, "{links} links");
}

/// In backquotes, as `src/log`.
#[test]
fn paths_in_the_text_exist() {
    const FOLDERS: [&str; 9] =
        ["src/", "tests/", "proto/", "conf/", "docs/", "benches/", "fuzz/", "examples/", ".ci/"];
    for page in pages().into_iter().filter(|page| page.path != "CHANGELOG.md") {
        for named in page.text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path =
                FOLDERS.iter().any(|folder| named.starts_with(folder)) && !named.contains(['*', ' ', '{']);
            assert!(
                !is_path || root().join(named).exists(),
                "{} names {named}, which does not exist",
                page.path
            );
        }
    }
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let contents = fs::read_to_string(root().join("docs/README.md")).unwrap();
    for page in pages() {
        let Some(path) = page.path.strip_prefix("docs/") else { continue };
        let listed =
            contents.contains(&format!("]({path})")) || path == "README.md" || path.starts_with("adr/");
        assert!(listed, "docs/README.md does not list {path}");
    }
}

#[test]
fn the_readme_is_short() {
    assert!(fs::metadata(root().join("README.md")).unwrap().len() <= README_BYTES_MAX);
}

/// `tidy::words` checks the configuration and the sources.
#[test]
fn no_page_has_a_banned_phrase() {
    let mut found = Vec::new();
    for page in pages() {
        found.extend(banned_in(&page.text).into_iter().map(|phrase| format!("{}: {phrase}", page.path)));
    }
    assert_eq!(found, Vec::<String>::new());
}
