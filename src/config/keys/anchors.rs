//! The check of the list `proof.anchors`.
//!
//! An error names the entry by its number, from 1 on. It shows no value: arguments and URLs may
//! contain secrets.

use serde_yaml::{Mapping, Value};

use super::{ConfigError, ValueKind, shape};
use crate::proof::{Algorithm, VerifierKey};

const EXPECTED: &str = "one of file: PATH, command: [PROGRAM, ARGUMENT] and witness: { url, key }";
const ARGUMENTS_MAX: usize = 100;

pub(super) fn check(path: &str, anchors: &[Value]) -> Result<(), ConfigError> {
    (1..).zip(anchors).try_for_each(|(number, anchor)| check_anchor(&format!("{path}.{number}"), anchor))
}

fn check_anchor(path: &str, anchor: &Value) -> Result<(), ConfigError> {
    let fields = anchor.as_mapping().filter(|fields| fields.len() == 1);
    let field = fields.and_then(|fields| fields.iter().next());
    let Some((kind, value)) = field.and_then(|(kind, value)| Some((kind.as_str()?, value))) else {
        return Err(invalid(path.to_owned(), anchor, EXPECTED));
    };
    let path = format!("{path}.{kind}");
    match kind {
        "file" => check_file(path, value),
        "command" => check_command(path, value),
        "witness" => check_witness(&path, value),
        _ => Err(ConfigError::UnknownKey {
            // What is not known may be part of a secret.
            key: path.rsplit_once('.').map_or_else(String::new, |(anchor, _)| format!("{anchor}.***")),
            known: vec!["file", "command", "witness"],
        }),
    }
}

fn check_file(path: String, value: &Value) -> Result<(), ConfigError> {
    if ValueKind::File.accepts(value) {
        return Ok(());
    }
    Err(invalid(path, value, &ValueKind::File.to_string()))
}

fn check_command(path: String, value: &Value) -> Result<(), ConfigError> {
    let is_argument = |argument: &Value| {
        argument
            .as_str()
            .is_some_and(|text| !text.contains('\0') && !text.contains(char::REPLACEMENT_CHARACTER))
    };
    let is_program = |program: &Value| program.as_str().is_some_and(|program| !program.is_empty());
    let arguments = value.as_sequence().filter(|arguments| arguments.len() <= ARGUMENTS_MAX);
    let is_command = arguments.is_some_and(|arguments| {
        arguments.first().is_some_and(is_program) && arguments.iter().all(is_argument)
    });
    if is_command {
        return Ok(());
    }
    Err(invalid(path, value, "a list of a program and at most 99 arguments, all of them text"))
}

fn check_witness(path: &str, value: &Value) -> Result<(), ConfigError> {
    const KEYS: [&str; 3] = ["url", "key", "ca_file"];
    let Some(fields) = value.as_mapping() else {
        return Err(invalid(path.to_owned(), value, "a mapping with url and key"));
    };
    if fields.keys().any(|name| name.as_str().is_none_or(|name| !KEYS.contains(&name))) {
        return Err(ConfigError::UnknownKey { key: format!("{path}.***"), known: KEYS.to_vec() });
    }
    let check = |name: &str, is_valid: &dyn Fn(&str) -> bool, expected: &str| {
        let found = field(fields, name);
        if found.as_str().is_some_and(is_valid) {
            return Ok(());
        }
        Err(invalid(format!("{path}.{name}"), found, expected))
    };
    check("url", &is_url, "a URL that starts with http:// or https://, without a user name")?;
    check("key", &is_witness_key, "the verifier key of a witness (NAME+ID+KEY, of the type 0x04)")?;
    if fields.contains_key("ca_file") {
        return check_file(format!("{path}.ca_file"), field(fields, "ca_file"));
    }
    Ok(())
}

fn field<'v>(fields: &'v Mapping, name: &str) -> &'v Value {
    const NULL: &Value = &Value::Null;
    fields.get(name).unwrap_or(NULL)
}

fn is_url(text: &str) -> bool {
    let is_plain = |character: char| character.is_ascii_graphic() && character != '@';
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    text.len() <= 2000 && host.is_some_and(|host| !host.is_empty() && host.chars().all(is_plain))
}

fn is_witness_key(text: &str) -> bool {
    VerifierKey::parse(text).is_ok_and(|key| key.algorithm() == Algorithm::CosignatureV1)
}

fn invalid(key: String, value: &Value, expected: &str) -> ConfigError {
    ConfigError::Invalid { key, variable: None, found: shape(value).into(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::super::{
        AnchorConfig, WitnessConfig,
        tests::{config_of, error_of},
    };

    const KEY: &str = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
    const LOG_KEY: &str = "log.example/aethyr+887ecb9c+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";

    #[test]
    fn each_kind_of_anchor_is_read_and_written_out_again() {
        let yaml = format!(
            "proof:\n  anchors:\n  - file: /mnt/a\n  - command: [post, --quiet]\n  - witness: {{ url: \
             'https://w.example/x', key: '{KEY}', ca_file: /ca.pem }}\n  - witness:\n      url: \
             http://127.0.0.1:1\n      key: {KEY}\n"
        );
        let config = config_of(&yaml);
        let witness = |url: &str, ca_file: Option<&str>| {
            let ca_file = ca_file.map(PathBuf::from);
            AnchorConfig::Witness(WitnessConfig { url: url.to_owned(), key: KEY.to_owned(), ca_file })
        };
        let expected = [
            AnchorConfig::File("/mnt/a".into()),
            AnchorConfig::Command(vec!["post".into(), "--quiet".into()]),
            witness("https://w.example/x", Some("/ca.pem")),
            witness("http://127.0.0.1:1", None),
        ];
        assert_eq!(config.proof.anchors, expected);
        assert_eq!(config_of(&config.to_yaml_redacted()), config);
    }

    #[test]
    fn an_invalid_anchor_is_named_by_its_number_and_not_shown() {
        let log_key = format!("[{{ witness: {{ url: 'https://a', key: '{LOG_KEY}' }} }}]");
        let no_path = format!("[{{ witness: {{ url: 'https://a', key: '{KEY}', ca_file: 1 }} }}]");
        for (anchors, expected) in [
            ("/mnt/a", "proof.anchors: found \"/mnt/a\", expected a list, for example "),
            ("[xyzzy]", "proof.anchors.1: found a string, expected one of file: PATH, "),
            ("[{ file: /a }, {}]", "proof.anchors.2: found a mapping, expected one of "),
            ("[{ file: /a, command: [a] }]", "proof.anchors.1: found a mapping, expected one of "),
            ("[{ xyzzy: /a }]", "proof.anchors.1.***: unknown key; known keys: file, command, witness"),
            ("[{ file: '' }]", "proof.anchors.1.file: found an empty string, expected a file path"),
            ("[{ command: [] }]", "proof.anchors.1.command: found a list, expected a list of a program"),
            ("[{ command: ['', xyzzy] }]", "proof.anchors.1.command: found a list, "),
            ("[{ command: [xyzzy, 1] }]", "proof.anchors.1.command: found a list, "),
            ("[{ command: xyzzy }]", "proof.anchors.1.command: found a string, "),
            ("[{ witness: xyzzy }]", "proof.anchors.1.witness: found a string, expected a mapping"),
            ("[{ witness: { key: a } }]", "proof.anchors.1.witness.url: found nothing, expected a URL"),
            ("[{ witness: { url: 'ftp://a' } }]", "proof.anchors.1.witness.url: found a string, "),
            (
                "[{ witness: { url: 'https://u:xyzzy@a' } }]",
                "proof.anchors.1.witness.url: found a string, expected a URL",
            ),
            ("[{ witness: { url: 'https://a', ky: b } }]", "proof.anchors.1.witness.***: unknown key"),
            ("[{ witness: { url: 'https://a', key: b } }]", "proof.anchors.1.witness.key: found a string"),
            (
                log_key.as_str(),
                "proof.anchors.1.witness.key: found a string, expected the verifier key of a witness",
            ),
            (no_path.as_str(), "proof.anchors.1.witness.ca_file: found a number, expected a file path"),
        ] {
            let error = error_of(&format!("proof: {{ anchors: {anchors} }}"), &[]);
            assert!(error.starts_with(expected) && !error.contains("xyzzy"), "{anchors}: {error}");
        }
        let variable = ("AETHYR_PROOF__ANCHORS", "[{ file: 1 }]");
        let error = error_of("", &[variable]);
        assert!(error.starts_with("proof.anchors.1.file (from AETHYR_PROOF__ANCHORS): "), "{error}");
    }
}
