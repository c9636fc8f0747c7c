//! The order of the modules: no import runs upwards, so there is no circle between them.

use super::sources;

/// From top to bottom. A module may use those below it. A file belongs to the longest entry that
/// its path begins with.
const ORDER: [&str; 93] = [
    "main",
    "lib",
    "cli",
    "server",
    "server::listen",
    "server::failure",
    "server::health",
    "server::components",
    "server::proofs",
    "server::opening",
    "server::bind",
    "server::reload",
    "server::settings",
    "server::error",
    "server::tls",
    // Modules get plain settings, so none below knows the configuration.
    "config",
    "telemetry",
    "grpc",
    "grpc::world",
    "grpc::event_store",
    "grpc::health",
    "grpc::json_client",
    "grpc::authorization",
    "grpc::redaction",
    "grpc::transport",
    "grpc::methods",
    "grpc::status",
    "grpc::violations",
    "grpc::settings",
    "grpc::wire",
    "world",
    "world::commands",
    "world::read_models",
    "world::history",
    "world::error",
    "world::rules",
    "world::model",
    "world::settings",
    "event_files",
    "store",
    "usage",
    "transparency",
    "replication",
    "sequencer",
    "sequencer::worker",
    "sequencer::step",
    "sequencer::numbering",
    "sequencer::snapshot",
    "sequencer::restore",
    "sequencer::group",
    "sequencer::existing",
    "sequencer::lookup",
    "sequencer::expectations",
    "sequencer::reply",
    "sequencer::call",
    "sequencer::queue",
    "sequencer::restored",
    "sequencer::group_error",
    "sequencer::settings",
    "sequencer::thresholds",
    "sequencer::marks",
    "sequencer::under_way",
    "sequencer::poisoned",
    "sequencer::append",
    "storage",
    "history",
    "rate_limit",
    "shared_limit",
    "error",
    "history::error",
    "tree",
    "index",
    "witness",
    "access_log",
    "refusals",
    "log",
    "clock",
    "stats",
    "progress",
    "threads",
    "access",
    "printable",
    "retry",
    "proof_file",
    "proof",
    "immudb",
    "crash_point",
    "durable_file",
    "aethyr_import",
    "event",
    "merkle",
    "secret",
    // Entry points of the fuzz targets; `fuzzing` in other modules belongs to it, too.
    "fuzzing",
];

/// The entry that a module belongs to, as its place in the order.
fn entry(module: &[String]) -> Option<usize> {
    let begins = |entry: &str| {
        let parts: Vec<&str> = entry.split("::").collect();
        module.len() >= parts.len() && module.iter().zip(&parts).all(|(one, other)| one == other)
    };
    let longest =
        ORDER.iter().copied().filter(|entry| begins(entry)).max_by_key(|entry| entry.split("::").count())?;
    ORDER.iter().position(|entry| *entry == longest)
}

/// The module of a file below `src`.
fn module(path: &str) -> Vec<String> {
    let path = path.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    path.split('/').map(str::to_owned).collect()
}

/// The text without comments, without paths of visibility, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let text = text.replace("pub(in crate::", "pub(in ");
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `crate` or `super`, from the crate's root.
fn imports(text: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (root, up) in [("crate::", false), ("super::", true)] {
        for (at, _) in text.match_indices(root) {
            let is_word = |character: char| character.is_alphanumeric() || "_:".contains(character);
            if text[..at].chars().next_back().is_some_and(is_word) {
                continue;
            }
            let prefix = if up { module[..module.len() - 1].to_vec() } else { Vec::new() };
            tree(&text[at + root.len()..], prefix, &mut found);
        }
    }
    found
}

/// Reads a tree of paths, such as `a::{b, c::d}`, and returns what follows it.
fn tree<'t>(text: &'t str, mut prefix: Vec<String>, found: &mut Vec<Vec<String>>) -> &'t str {
    let mut rest = text.trim_start();
    loop {
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside.trim_start();
            while !rest.starts_with('}') && !rest.is_empty() {
                rest = tree(rest, prefix.clone(), found).trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest.find(|character: char| !character.is_alphanumeric() && character != '_');
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        match word {
            "" => {
                let Some(after) = rest.strip_prefix('*') else { return rest };
                found.push(prefix);
                return after;
            }
            "super" => _ = prefix.pop(),
            "self" => {}
            word => prefix.push(word.to_owned()),
        }
        match after.strip_prefix("::") {
            Some(more) => rest = more,
            None => {
                found.push(prefix);
                let after = after.trim_start();
                // A name of its own: `as other`.
                let Some(alias) = after.strip_prefix("as ") else { return after };
                return alias
                    .trim_start_matches(|character: char| character.is_alphanumeric() || character == '_');
            }
        }
    }
}

#[test]
fn no_import_runs_upwards() {
    let mut upwards = Vec::new();
    let mut count = 0;
    for (path, text) in sources("src") {
        if ["tests", "fuzzing", "interleavings"].iter().any(|part| path.contains(part)) {
            continue;
        }
        let module = module(&path);
        let from = entry(&module).unwrap_or_else(|| panic!("{path} is in no module of the order"));
        for import in imports(&code(&text), &module) {
            let Some(to) = entry(&import) else { continue };
            count += 1;
            if to < from {
                upwards.push(format!("{path} uses {}", import.join("::")));
            }
        }
    }
    assert!(count > 500, "{count} imports were found");
    assert_eq!(upwards, Vec::<String>::new());
}

#[test]
fn imports_are_read() {
    let module = ["a", "b"].map(str::to_owned);
    let text =
        code("use crate::{x::{Y, z::{self, W as V}}, q::*}; // crate::no\nlet r = super::c::D::new();");
    let paths: Vec<String> = imports(&text, &module).iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["x::Y", "x::z", "x::z::W", "q", "a::c::D::new"]);
}
