//! What the environment says instead of the file. It is written into the parsed file before that
//! is checked, so that there is one way of checking.
//!
//! Administrators know the five names of `KNOWN_NAMES`; they change the section `immudb` where there
//! is one, and only `IMMUDB_ADDRESS` makes one, because that section decides whether there is an
//! ImmuDB at all.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::keys::{KEYS, Key, REMOVED};
use super::{ConfigError, Warning};

mod links;

const IMMUDB: &str = "immudb";
const KNOWN_NAMES: [&str; 5] = ["address", "port", "username", "password", "database"];

#[derive(Default)]
pub(super) struct Overrides {
    /// Which variable has spoken for which path.
    pub variables: BTreeMap<&'static str, String>,
    pub warnings: Vec<Warning>,
}

pub(super) fn apply(
    file: &mut Mapping,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Overrides, ConfigError> {
    let (links, variables): (Vec<_>, Vec<_>) =
        environment.partition(|(name, text)| links::is_link(name, text));
    let mut texts = recognised(variables.into_iter())?;
    let mut overrides = Overrides::default();
    let mistakable = links.into_iter().map(|(name, _)| name).filter(|name| is_ours(name)).collect::<Vec<_>>();
    if !mistakable.is_empty() {
        overrides.warnings.push(Warning::Links { variables: mistakable });
    }
    // The order of the table, in which the address comes before the rest of its section.
    for key in KEYS {
        let variable = variable_of(key);
        let Some(text) = texts.remove(&variable) else {
            continue;
        };
        if !patch(file, key, text) {
            overrides.warnings.push(Warning::NoImmudb { variable });
            continue;
        }
        overrides.variables.insert(key.path, variable);
    }
    Ok(overrides)
}

/// It would be read, or refused.
fn is_ours(name: &str) -> bool {
    name.starts_with("AETHYR_") || KEYS.iter().any(|key| variable_of(key) == name)
}

/// The variables that name a key, and an error for those that should and don't.
fn recognised(
    environment: impl Iterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut texts = BTreeMap::new();
    for (name, text) in environment {
        let removed = REMOVED.iter().find(|(key, _)| variable_at(key) == name);
        if let Some((_, instead)) = removed {
            return Err(ConfigError::RemovedKey { key: name, instead: variable_at(instead) });
        }
        let names_key = KEYS.iter().any(|key| variable_of(key) == name);
        if !names_key && name.starts_with("AETHYR_") {
            let instead = meant_by(&name);
            return Err(ConfigError::UnknownVariable { name, instead });
        }
        // An empty one of these is what `docker compose` makes of one that is not set.
        let is_unset = text.is_empty() && !name.starts_with("AETHYR_");
        if names_key && !is_unset {
            texts.insert(name, text);
        }
    }
    Ok(texts)
}

/// The variable that names the key that this one misses: by another beginning, or by single underscores.
fn meant_by(name: &str) -> Option<String> {
    let plain = |name: &str| name.trim_start_matches("AETHYR_").replace("__", "_");
    KEYS.iter().map(variable_of).find(|variable| plain(variable) == plain(name))
}

fn variable_of(key: &Key) -> String {
    let known_name = KNOWN_NAMES.iter().find(|name| key.path.split_once('.') == Some((IMMUDB, name)));
    match known_name {
        Some(name) => format!("IMMUDB_{}", name.to_uppercase()),
        None => variable_at(key.path),
    }
}

fn variable_at(path: &str) -> String {
    format!("AETHYR_{}", path.replace('.', "__").to_uppercase())
}

/// False where the section is missing that the environment may not make.
fn patch(file: &mut Mapping, key: &Key, text: String) -> bool {
    let Some((section, name)) = key.path.split_once('.') else {
        return false;
    };
    if section == IMMUDB && name != "address" && !file.contains_key(IMMUDB) {
        return false;
    }
    let section = file.entry(section.into()).or_insert_with(|| Mapping::new().into());
    // A section that is none stays as it is, for the check to find.
    if let Value::Mapping(keys) = section {
        keys.insert(name.into(), parse(key, text));
    }
    true
}

fn parse(key: &Key, text: String) -> Value {
    if key.kind.is_text() {
        return Value::String(text);
    }
    serde_yaml::from_str(&text).unwrap_or(Value::String(text))
}

#[cfg(test)]
mod tests;
