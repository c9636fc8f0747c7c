//! Overrides from the environment. They are written into the parsed file before it is checked, so
//! that there is only one check.
//!
//! The keys in `KNOWN_NAMES` have the variable names that operators know. Variables for the section
//! `immudb` change an existing section. Only `IMMUDB_ADDRESS` creates it, because that section
//! decides whether ImmuDB is used at all.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::{
    ConfigError, Warning,
    keys::{KEYS, Key, REMOVED, ValueKind},
};

mod links;

const IMMUDB: &str = "immudb";
const KNOWN_NAMES: [&str; 6] = ["address", "port", "username", "password", "password_file", "database"];
const PASSWORD: &str = "immudb.password";
const PASSWORD_FILE: &str = "immudb.password_file";
/// Variables that the commands read which connect to a service.
const OF_CLIENTS: [&str; 4] =
    ["AETHYR_TOKEN_FILE", "AETHYR_CA_FILE", "AETHYR_CERTIFICATE_FILE", "AETHYR_KEY_FILE"];

#[derive(Default)]
pub(super) struct Overrides {
    /// The variable that set each key, by the path of the key.
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
    // In the order of the table, where the address comes before the rest of its section.
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
    let is_set = |path: &str| overrides.variables.contains_key(path);
    if is_set(PASSWORD) && !is_set(PASSWORD_FILE) {
        remove_password_file(file);
    }
    Ok(overrides)
}

/// A password in the environment takes precedence over a file that the configuration names.
fn remove_password_file(file: &mut Mapping) {
    let immudb = file.get_mut(IMMUDB).and_then(Value::as_mapping_mut);
    if let (Some(immudb), Some((_, name))) = (immudb, PASSWORD_FILE.split_once('.')) {
        immudb.remove(name);
    }
}

/// Returns whether the variable would be read or rejected if it were not a link.
fn is_ours(name: &str) -> bool {
    name.starts_with("AETHYR_") || KEYS.iter().any(|key| variable_of(key) == name)
}

/// Returns the variables that name a key. Returns an error for a variable that should name a key
/// but does not.
fn recognised(
    environment: impl Iterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut texts = BTreeMap::new();
    for (name, text) in environment.filter(|(name, _)| !OF_CLIENTS.contains(&name.as_str())) {
        let removed = REMOVED.iter().find(|(key, _)| variable_at(key) == name);
        if let Some((_, instead)) = removed {
            return Err(ConfigError::RemovedKey { key: name, instead: variable_at(instead) });
        }
        let names_key = KEYS.iter().any(|key| variable_of(key) == name);
        if !names_key && name.starts_with("AETHYR_") {
            let instead = meant_by(&name);
            return Err(ConfigError::UnknownVariable { name, instead });
        }
        // `docker compose` passes an unset variable as an empty one.
        let is_unset = text.is_empty() && !name.starts_with("AETHYR_");
        if names_key && !is_unset {
            texts.insert(name, text);
        }
    }
    Ok(texts)
}

/// Returns the variable that was probably meant. It differs only in the prefix or in the number of
/// underscores.
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

/// Writes a value into the parsed file. Returns false if its section is missing and must not be
/// created from the environment.
fn patch(file: &mut Mapping, key: &Key, text: String) -> bool {
    let Some((section, name)) = key.path.split_once('.') else {
        return false;
    };
    if section == IMMUDB && name != "address" && !file.contains_key(IMMUDB) {
        return false;
    }
    let section = file.entry(section.into()).or_insert_with(|| Mapping::new().into());
    // A section that is not a mapping is left as it is, and the check rejects it.
    if let Value::Mapping(keys) = section {
        keys.insert(name.into(), parse(key, text));
    }
    true
}

fn parse(key: &Key, text: String) -> Value {
    if matches!(key.kind, ValueKind::Listen) && text.contains(',') {
        return text.split(',').map(|address| Value::from(address.trim())).collect();
    }
    if key.kind.is_text() {
        return Value::String(text);
    }
    serde_yaml::from_str(&text).unwrap_or(Value::String(text))
}

#[cfg(test)]
mod tests;
