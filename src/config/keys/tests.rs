use super::super::tests::{config_of, error_of, leaves, with_immudb};
use super::*;

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
            "servers: no such key (did you mean server?), there are server, event_sourcing, world, immudb, limits, logging",
        ),
        (
            "server: { lisen: x }",
            "server.lisen: no such key (did you mean listen?), there are listen, shutdown_grace, first_call_max, request_max, unread_max, group_readable",
        ),
        ("server:\n  lisen:\n", "server.lisen: no such key"),
        ("immudb: { enabled: true }", "immudb.enabled: no such key, there are address, "),
        ("limits: { Append_events_max: 1 }", "limits.Append_events_max: no such key"),
        ("port: 1", "port: no such key"),
        ("server.listen: 127.0.0.1:1", "***: no such key"),
        ("1: {}", "***: no such key"),
        (
            "event_sourcing: { snapshot_treshold: 5 }",
            "event_sourcing.snapshot_treshold: no such key (did you mean snapshot_threshold?)",
        ),
        ("immudb: { <<: { port: 1 } }", "<<: YAML merge keys are not supported"),
        ("<<: { immudb: {} }", "<<: YAML merge keys are not supported"),
        ("immudb: { password: \"secret\\n\" }", "immudb.password: a text, where there should be text"),
    ] {
        let error = error_of(yaml, &[]);
        assert!(error.starts_with(named), "{yaml}: {error}");
    }
}

const INVALID: &[(&str, &str)] = &[
    (
        "limits: { append_events_max: 501 }",
        "limits.append_events_max: 501, where there should be a whole number from 1 to 500",
    ),
    (
        "limits: { append_events_max: 0 }",
        "limits.append_events_max: 0, where there should be a whole number from 1 to 500",
    ),
    (
        "limits: { append_events_max: -1 }",
        "limits.append_events_max: -1, where there should be a whole number from 1 to 500",
    ),
    (
        "limits: { append_events_max: 1.5 }",
        "limits.append_events_max: 1.5, where there should be a whole number from 1 to 500",
    ),
    (
        "limits: { id_bytes_max: 8 MB }",
        "limits.id_bytes_max: \"8 MB\", where there should be bytes from 1 to 255",
    ),
    ("limits: { id_bytes_max: }", "limits.id_bytes_max: nothing, where there should be bytes from 1 to 255"),
    (
        "limits: { id_bytes_max: !x 1 }",
        "limits.id_bytes_max: a value with a tag, where there should be bytes from 1 to 255",
    ),
    ("immudb: { keep_alive: 100 }", "immudb.keep_alive: 100, where there should be seconds from 1 to 99"),
    ("immudb: { keep_alive: .nan }", "immudb.keep_alive: .nan, where there should be seconds from 1 to 99"),
    ("immudb: { keep_alive: .inf }", "immudb.keep_alive: .inf, where there should be seconds from 1 to 99"),
    (
        "server: { shutdown_grace: 5s }",
        "server.shutdown_grace: \"5s\", where there should be seconds from 0 to 3600",
    ),
    (
        "server: { listen: 50051 }",
        "server.listen: 50051, where there should be an IP address and a port, as in 127.0.0.1:50051",
    ),
    (
        "server: { listen: 'localhost:1' }",
        "server.listen: \"localhost:1\", where there should be an IP address and a port, as in 127.0.0.1:50051",
    ),
    ("server: yes", "server: a text, where there should be keys with their values"),
    (
        "event_sourcing: { enabled: yes }",
        "event_sourcing.enabled: \"yes\", where there should be true or false",
    ),
    (
        "event_sourcing: { log_path: '' }",
        "event_sourcing.log_path: \"\", where there should be the path of a folder, of at most 4095 bytes",
    ),
    (
        "event_sourcing: { log_path: storage/events/log }",
        "event_sourcing.log_path: \"storage/events/log\", where there should be a folder outside of event_sourcing.storage_path",
    ),
    (
        "event_sourcing: { index_path: ./storage/log/ }",
        "event_sourcing.log_path: \"storage/log\", where there should be a folder outside of event_sourcing.index_path",
    ),
    (
        "event_sourcing: { snapshot_thresholds: 5 }",
        "event_sourcing.snapshot_thresholds: 5, where there should be names with numbers, as in { Room: 500 }",
    ),
    (
        "event_sourcing: { snapshot_thresholds: { Room: 0 } }",
        "event_sourcing.snapshot_thresholds.Room: 0, where there should be a whole number from 1 to 1000000000",
    ),
    (
        "event_sourcing: { snapshot_thresholds_by_id: { 7: 5 } }",
        "event_sourcing.snapshot_thresholds_by_id: 7, where there should be names, in quotes where they look like numbers",
    ),
    (
        "immudb: { retry_delay: 3 }",
        "immudb.retry_delay: 3, where there should be at most immudb.retry_delay_max, 2",
    ),
    (
        "immudb: { address: '127.0.0.1:3322' }",
        "immudb.address: \"127.0.0.1:3322\", where there should be a host name or an IP address without a port",
    ),
    (
        "immudb: { password: 12345 }",
        "immudb.password: a number, where there should be text, in quotes where it looks like something else, and without a newline at its end",
    ),
    (
        "immudb: { password: '' }",
        "immudb.password: an empty text, where there should be text, in quotes where it looks like something else, and without a newline at its end",
    ),
    (
        "logging: { level: inof }",
        "logging.level: \"inof\", where there should be off, error, warn, info, debug or trace, or several as in info,tonic=warn",
    ),
];

#[test]
fn invalid_values_are_named_with_key_value_and_bounds() {
    for (yaml, text) in INVALID {
        assert_eq!(error_of(yaml, &[]), *text, "{yaml}");
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

/// So that the check and the sections can't drift apart.
#[test]
fn bounds_of_every_key_are_values_that_it_takes() {
    for key in KEYS {
        let (section, name) = key.path.split_once('.').unwrap();
        let (inside, outside) = match key.kind {
            Kind::Count { min, max } | Kind::Bytes { min, max } => (
                vec![min.to_string(), max.to_string()],
                vec![(i128::from(min) - 1).to_string(), (max + 1).to_string()],
            ),
            Kind::Seconds { min, max } => (
                vec![min.to_string(), max.to_string()],
                vec![(min - 0.001).to_string(), (max + 0.001).to_string()],
            ),
            _ => continue,
        };
        // What one key may be depends on another: the largest delay of the first attempt is above the default of the later ones.
        let beside = match name {
            "retry_delay" => ", retry_delay_max: 3600",
            "retry_delay_max" => ", retry_delay: 0.001",
            // The largest request has to fit into the least.
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
