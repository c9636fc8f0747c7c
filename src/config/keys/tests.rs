//! Tests of the table of keys and of the check against it. Each test loads YAML and compares the
//! value or the error message.

use super::{
    super::tests::{config_of, error_of, leaves, with_immudb},
    *,
};

#[test]
fn table_of_keys_is_the_keys_of_the_sections() {
    let paths: Vec<_> = leaves(&with_immudb().to_yaml_redacted()).into_iter().map(|(path, _)| path).collect();
    let table: Vec<_> = KEYS.iter().map(|key| key.path).collect();
    assert_eq!(paths, table);
}

#[test]
fn unknown_keys_are_named_with_their_path() {
    for (yaml, named) in [
        (
            "servers: {}",
            "servers: unknown key (did you mean server?); known keys: server, access, event_sourcing, world, immudb, proof, audit, limits, logging",
        ),
        (
            "server: { lisen: x }",
            "server.lisen: unknown key (did you mean listen?); known keys: listen, tls, shutdown_grace, first_call_max, request_max, unread_max, group_readable, core_dumps",
        ),
        ("server:\n  lisen:\n", "server.lisen: unknown key"),
        ("immudb: { enabled: true }", "immudb.enabled: unknown key; known keys: address, "),
        ("limits: { Append_events_max: 1 }", "limits.Append_events_max: unknown key"),
        ("port: 1", "port: unknown key"),
        ("server.listen: 127.0.0.1:1", "***: unknown key"),
        ("1: {}", "***: unknown key"),
        (
            "event_sourcing: { snapshot_treshold: 5 }",
            "event_sourcing.snapshot_treshold: unknown key (did you mean snapshot_threshold?)",
        ),
        ("immudb: { <<: { port: 1 } }", "<<: YAML merge keys are not supported"),
        ("<<: { immudb: {} }", "<<: YAML merge keys are not supported"),
        ("immudb: { password: \"secret\\n\" }", "immudb.password: found a string, expected text"),
    ] {
        let error = error_of(yaml, &[]);
        assert!(error.starts_with(named), "{yaml}: {error}");
    }
}

const INVALID: &[(&str, &str)] = &[
    (
        "limits: { append_events_max: 501 }",
        "limits.append_events_max: found 501, expected a whole number from 1 to 500",
    ),
    (
        "limits: { append_events_max: 0 }",
        "limits.append_events_max: found 0, expected a whole number from 1 to 500",
    ),
    (
        "limits: { append_events_max: -1 }",
        "limits.append_events_max: found -1, expected a whole number from 1 to 500",
    ),
    (
        "limits: { append_events_max: 1.5 }",
        "limits.append_events_max: found 1.5, expected a whole number from 1 to 500",
    ),
    (
        "limits: { id_bytes_max: 8 MB }",
        "limits.id_bytes_max: found \"8 MB\", expected a number of bytes from 1 to 255",
    ),
    (
        "limits: { id_bytes_max: }",
        "limits.id_bytes_max: found nothing, expected a number of bytes from 1 to 255",
    ),
    (
        "limits: { id_bytes_max: !x 1 }",
        "limits.id_bytes_max: found a tagged value, expected a number of bytes from 1 to 255",
    ),
    (
        "immudb: { keep_alive: 100 }",
        "immudb.keep_alive: found 100, expected a number of seconds from 1 to 99",
    ),
    (
        "immudb: { keep_alive: .nan }",
        "immudb.keep_alive: found .nan, expected a number of seconds from 1 to 99",
    ),
    (
        "immudb: { keep_alive: .inf }",
        "immudb.keep_alive: found .inf, expected a number of seconds from 1 to 99",
    ),
    (
        "server: { shutdown_grace: 5s }",
        "server.shutdown_grace: found \"5s\", expected a number of seconds from 0 to 3600",
    ),
    (
        "server: { listen: 50051 }",
        "server.listen: found 50051, expected an IP address and port, for example 127.0.0.1:50051, a unix socket, for example unix:/run/aethyr/store.sock, or a list of them",
    ),
    (
        "server: { listen: 'localhost:1' }",
        "server.listen: found \"localhost:1\", expected an IP address and port, for example 127.0.0.1:50051, a unix socket, for example unix:/run/aethyr/store.sock, or a list of them",
    ),
    ("server: yes", "server: found a string, expected a mapping of keys to values"),
    ("event_sourcing: { enabled: yes }", "event_sourcing.enabled: found \"yes\", expected true or false"),
    (
        "event_sourcing: { log_path: '' }",
        "event_sourcing.log_path: found \"\", expected a directory path of at most 4095 bytes",
    ),
    (
        "event_sourcing: { log_path: storage/events/log }",
        "event_sourcing.log_path: found \"storage/events/log\", expected a directory outside event_sourcing.storage_path",
    ),
    (
        "event_sourcing: { index_path: ./storage/log/ }",
        "event_sourcing.log_path: found \"storage/log\", expected a directory outside event_sourcing.index_path",
    ),
    (
        "event_sourcing: { snapshot_thresholds: 5 }",
        "event_sourcing.snapshot_thresholds: found 5, expected a mapping of names to numbers, for example { Room: 500 }",
    ),
    (
        "event_sourcing: { snapshot_thresholds: { Room: 0 } }",
        "event_sourcing.snapshot_thresholds.Room: found 0, expected a whole number from 1 to 1000000000",
    ),
    (
        "event_sourcing: { snapshot_thresholds_by_id: { 7: 5 } }",
        "event_sourcing.snapshot_thresholds_by_id: found 7, expected names (quote names that look like numbers)",
    ),
    (
        "immudb: { retry_delay: 3 }",
        "immudb.retry_delay: found 3, expected at most immudb.retry_delay_max (2)",
    ),
    (
        "immudb: { address: '127.0.0.1:3322' }",
        "immudb.address: found \"127.0.0.1:3322\", expected a host name or IP address without a port",
    ),
    (
        "immudb: { password: 12345 }",
        "immudb.password: found a number, expected text without a trailing newline (quote it if it looks like a number or a flag)",
    ),
    (
        "immudb: { password: '' }",
        "immudb.password: found an empty string, expected text without a trailing newline (quote it if it looks like a number or a flag)",
    ),
    (
        "immudb: { public_key_file: true }",
        "immudb.public_key_file: found true, expected a file path of at most 4095 bytes, or an empty string for none",
    ),
    (
        "access: { anonymous: 'the admin' }",
        "access.anonymous: found \"the admin\", expected the name of a role (at most 64 letters, digits, hyphens and underscores), or an empty string",
    ),
    ("access: { allow_cleartext: 1 }", "access.allow_cleartext: found 1, expected true or false"),
    (
        "world: { read_models_mode: 640 }",
        "world.read_models_mode: found 640, expected an octal mode that lets the owner read and write and others at most read, for example \"0644\", or an empty string",
    ),
    (
        "limits: { connections_per_address_max: 0 }",
        "limits.connections_per_address_max: found 0, expected a whole number from 1 to 1000000",
    ),
    (
        "proof: { origin: 'our world' }",
        "proof.origin: found \"our world\", expected at most 200 bytes without spaces, plus signs and control characters, or an empty string",
    ),
    (
        "proof: { key_file: storage/log/key }",
        "proof.key_file: found \"storage/log/key\", expected a directory outside event_sourcing.log_path",
    ),
    (
        "proof: { checkpoint_every: 60s }",
        "proof.checkpoint_every: found \"60s\", expected a number of seconds from 0 to 86400",
    ),
    (
        "audit: { events_per_second: -1 }",
        "audit.events_per_second: found -1, expected a whole number from 0 to 10000000",
    ),
    (
        "logging: { level: inof }",
        "logging.level: found \"inof\", expected off, error, warn, info, debug or trace, or a list such as info,tonic=warn",
    ),
];

#[test]
fn invalid_values_are_named_with_key_value_and_bounds() {
    for (yaml, text) in INVALID {
        assert_eq!(error_of(yaml, &[]), *text, "{yaml}");
    }
}

#[test]
fn a_mode_of_the_read_models_lets_others_at_most_read() {
    let yaml = |mode: &str| format!("world: {{ read_models_mode: {mode} }}");
    for (text, mode) in [
        ("''", None),
        ("'0600'", Some(0o600)),
        ("'640'", Some(0o640)),
        ("0644", Some(0o644)),
        ("'0o604'", Some(0o604)),
    ] {
        let config = config_of(&yaml(text));
        assert_eq!(config.world.read_models_mode, mode, "{text}");
        assert_eq!(config_of(&config.to_yaml_redacted()), config, "{text}");
    }
    for text in ["'0400'", "'0660'", "'0646'", "'0755'", "'1644'", "'0o'", "'+640'", "'0648'", "rw", "true"] {
        let error = error_of(&yaml(text), &[]);
        assert!(error.starts_with("world.read_models_mode: "), "{text}: {error}");
    }
}

#[test]
fn databases_have_names_that_immudb_takes() {
    let yaml = |name: &str| format!("immudb: {{ database: {name} }}");
    let longest = "a".repeat(128);
    for name in ["aethyr", "a", "world_2", &longest] {
        assert_eq!(config_of(&yaml(name)).immudb.unwrap().database, name);
    }
    let too_long = "a".repeat(129);
    for name in ["''", "Aethyr", "a-b", "defaultdb", "systemdb", "ä", &too_long] {
        let error = error_of(&yaml(name), &[]);
        assert!(error.starts_with("immudb.database: "), "{name}: {error}");
    }
}

/// Ensures that the check and the sections do not drift apart.
#[test]
fn bounds_of_every_key_are_values_that_it_takes() {
    for key in KEYS {
        let (section, name) = key.path.split_once('.').unwrap();
        let (inside, outside) = match key.kind {
            ValueKind::Count { min, max } | ValueKind::Bytes { min, max } => (
                vec![min.to_string(), max.to_string()],
                vec![(i128::from(min) - 1).to_string(), (max + 1).to_string()],
            ),
            ValueKind::Seconds { min, max } => (
                vec![min.to_string(), max.to_string()],
                vec![(min - 0.001).to_string(), (max + 0.001).to_string()],
            ),
            _ => continue,
        };
        // The bounds of one key may depend on another key: the largest `retry_delay` is above the
        // default of `retry_delay_max`.
        let beside = match name {
            "retry_delay" => ", retry_delay_max: 3600",
            "retry_delay_max" => ", retry_delay: 0.001",
            // The largest request must fit into the smallest budget.
            "call_bytes_max" => ", append_bytes_max: 4194304",
            _ => "",
        };
        for value in inside {
            config_of(&format!("{section}: {{ {name}: {value}{beside} }}"));
        }
        for value in outside {
            let error = error_of(&format!("{section}: {{ {name}: {value}{beside} }}"), &[]);
            let start = format!("{}: ", key.path);
            assert!(error.starts_with(&start), "{value}: {error}");
        }
    }
}
