//! Keys and variables that have different names in Aethyr's own documentation and code.
//!
//! They are renamed before the configuration is checked, or ignored, with a warning in both cases.

use serde_yaml::{Mapping, Value};

use super::Warning;

/// Keys in Aethyr's `conf/server.yml`, with our names for them.
const KEYS: [(&str, &str); 4] = [
    ("immudb.snapshot_threshold", "event_sourcing.snapshot_threshold"),
    ("immudb.host", "immudb.address"),
    ("immudb.user", "immudb.username"),
    ("immudb.pass", "immudb.password"),
];
/// Variables of Aethyr that are read, with our names for them.
const VARIABLES: [(&str, &str); 3] = [
    ("IMMUDB_HOST", "IMMUDB_ADDRESS"),
    ("IMMUDB_USER", "IMMUDB_USERNAME"),
    ("IMMUDB_PASS", "IMMUDB_PASSWORD"),
];
/// Variables of Aethyr that are not read, because their names could belong to any program, with our
/// names for them.
const NOT_READ: [(&str, &str); 4] = [
    ("SNAPSHOT_FREQUENCY", "AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLD"),
    ("RETRY_ATTEMPTS", "AETHYR_IMMUDB__RETRY_COUNT"),
    ("RETRY_BASE_DELAY", "AETHYR_IMMUDB__RETRY_DELAY"),
    ("RETRY_MAX_DELAY", "AETHYR_IMMUDB__RETRY_DELAY_MAX"),
];

/// Renames Aethyr's keys in a file to ours. If a key is present under both names, ours takes
/// precedence.
pub(super) fn rename_keys(file: &mut Mapping) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for (theirs, ours) in KEYS {
        let (Some((section, name)), Some((our_section, our_name))) =
            (theirs.split_once('.'), ours.split_once('.'))
        else {
            continue;
        };
        let Some(value) =
            file.get_mut(section).and_then(Value::as_mapping_mut).and_then(|keys| keys.remove(name))
        else {
            continue;
        };
        let section = file.entry(our_section.into()).or_insert_with(|| Mapping::new().into());
        match section {
            Value::Null => *section = Mapping::from_iter([(our_name.into(), value)]).into(),
            Value::Mapping(keys) => _ = keys.entry(our_name.into()).or_insert(value),
            // Not a mapping; the check rejects it.
            _ => {}
        }
        warnings.push(Warning::OtherName { name: theirs.to_owned(), instead: ours.to_owned() });
    }
    warnings
}

/// Renames Aethyr's variables to ours. If a variable is set under both names, ours takes
/// precedence.
pub(super) fn rename_variables(environment: &mut Vec<(String, String)>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for (theirs, ours) in VARIABLES {
        let is_set = |wanted: &str| environment.iter().any(|(name, text)| name == wanted && !text.is_empty());
        if !is_set(theirs) {
            continue;
        }
        if !is_set(ours) {
            environment.retain(|(name, _)| name != ours);
            let both = environment.iter_mut().filter(|(name, _)| name == theirs);
            both.for_each(|(name, _)| ours.clone_into(name));
        }
        warnings.push(Warning::OtherName { name: theirs.to_owned(), instead: ours.to_owned() });
    }
    for (theirs, ours) in NOT_READ {
        if environment.iter().any(|(name, _)| name == theirs) {
            warnings.push(Warning::NotRead { variable: theirs.to_owned(), instead: ours.to_owned() });
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config_of, load_with};
    use crate::config::Warning;

    fn other(name: &str, instead: &str) -> Warning {
        Warning::OtherName { name: name.into(), instead: instead.into() }
    }

    #[test]
    fn keys_of_its_documents_are_understood_and_ours_take_precedence() {
        let yaml =
            "event_sourcing: { enabled: true }\nimmudb: { snapshot_threshold: 7, host: h, user: u, pass: p }";
        let loaded = load_with(yaml, &[]).unwrap();
        assert_eq!(loaded.config.event_sourcing.snapshot_threshold, 7);
        let ours = "event_sourcing: { enabled: true, snapshot_threshold: 7 }\nimmudb: { address: h, \
         username: u, password: p }";
        assert_eq!(loaded.config, config_of(ours));
        assert_eq!(
            loaded.warnings,
            [
                other("immudb.snapshot_threshold", "event_sourcing.snapshot_threshold"),
                other("immudb.host", "immudb.address"),
                other("immudb.user", "immudb.username"),
                other("immudb.pass", "immudb.password"),
            ]
        );
        let config = config_of("event_sourcing:\nimmudb: { snapshot_threshold: 7 }");
        assert_eq!(config.event_sourcing.snapshot_threshold, 7);
        let config = config_of("immudb: { host: theirs, address: ours, snapshot_threshold: 7 }");
        assert_eq!(config.immudb.unwrap().address, "ours");
    }

    #[test]
    fn variables_of_its_code_are_read_or_named() {
        let environment = [
            ("IMMUDB_HOST", "h"),
            ("IMMUDB_USER", "theirs"),
            ("IMMUDB_USERNAME", "ours"),
            ("IMMUDB_PASS", ""),
            ("RETRY_ATTEMPTS", "9"),
        ];
        let loaded = load_with("event_sourcing: { enabled: true }", &environment).unwrap();
        let immudb = loaded.config.immudb.unwrap();
        assert_eq!((&*immudb.address, &*immudb.username, immudb.retry_count), ("h", "ours", 5));
        let not_read = Warning::NotRead {
            variable: "RETRY_ATTEMPTS".into(),
            instead: "AETHYR_IMMUDB__RETRY_COUNT".into(),
        };
        assert_eq!(
            loaded.warnings,
            [other("IMMUDB_HOST", "IMMUDB_ADDRESS"), other("IMMUDB_USER", "IMMUDB_USERNAME"), not_read]
        );
        // `docker compose` passes an unset variable as an empty one.
        let loaded = load_with("", &[("IMMUDB_HOST", "h"), ("IMMUDB_ADDRESS", "")]).unwrap();
        assert_eq!(loaded.config.immudb.unwrap().address, "h");
    }
}
