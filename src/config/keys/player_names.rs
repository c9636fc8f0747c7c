//! The check of the mapping `world.player_names`.

use serde_yaml::Value;

use super::{ConfigError, shown_name, shown_value};

pub(super) const EXPECTED: &str = "a mapping, for example { unique: folded }";

const UNIQUE: &str = "unique";

pub(super) fn check(path: &str, value: &Value) -> Result<(), ConfigError> {
    let Value::Mapping(names) = value else { return Err(invalid(path.to_owned(), value, EXPECTED)) };
    for (name, value) in names {
        if name.as_str() != Some(UNIQUE) {
            let key = format!("{path}.{}", shown_name(name));
            return Err(ConfigError::UnknownKey { key, known: vec![UNIQUE] });
        }
        if !value.as_str().is_some_and(|text| ["off", "exact", "folded"].contains(&text)) {
            return Err(invalid(format!("{path}.{UNIQUE}"), value, "off, exact or folded"));
        }
    }
    Ok(())
}

fn invalid(key: String, value: &Value, expected: &str) -> ConfigError {
    ConfigError::Invalid { key, variable: None, found: shown_value(value), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::super::{
        UniqueNames,
        tests::{config_of, error_of, load_with},
    };

    #[test]
    fn names_are_unique_as_the_file_or_the_environment_says() {
        let unique = |yaml: &str| config_of(yaml).world.player_names.unique;
        assert_eq!(unique(""), UniqueNames::Off);
        assert_eq!(unique("world: { player_names: {} }"), UniqueNames::Off);
        for (text, expected) in
            [("off", UniqueNames::Off), ("exact", UniqueNames::Exact), ("folded", UniqueNames::Folded)]
        {
            let yaml = format!("world: {{ player_names: {{ unique: {text} }} }}");
            assert_eq!(unique(&yaml), expected);
            assert_eq!(unique(&config_of(&yaml).to_yaml_redacted()), expected);
            let variable = ("AETHYR_WORLD__PLAYER_NAMES", format!("{{ unique: {text} }}"));
            let config = load_with("", &[(variable.0, &variable.1)]).unwrap().config;
            assert_eq!(config.world.player_names.unique, expected);
        }
    }

    #[test]
    fn an_invalid_rule_is_named() {
        for (yaml, expected) in [
            (
                "world: { player_names: folded }",
                "world.player_names: found \"folded\", expected a mapping, for example { unique: folded }",
            ),
            (
                "world: { player_names: { unique: true } }",
                "world.player_names.unique: found true, expected off, exact or folded",
            ),
            (
                "world: { player_names: { uniq: folded } }",
                "world.player_names.uniq: unknown key (did you mean unique?); known keys: unique",
            ),
            (
                "world: { raw_appends: unchecked, player_names: { unique: exact } }",
                "world.raw_appends: found \"unchecked\", expected checked or refused, because \
                 world.player_names.unique is set",
            ),
        ] {
            let error = error_of(yaml, &[]);
            assert!(error.starts_with(expected), "{yaml}: {error}");
        }
        config_of("world: { raw_appends: unchecked, player_names: { unique: off } }");
    }
}
