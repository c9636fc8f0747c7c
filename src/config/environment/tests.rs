//! Tests of the overrides from the environment: what they set, when they are ignored, and that
//! errors name the variable.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::{
    super::tests::{error_of, load_with},
    *,
};
use crate::{
    config::{Config, ImmudbConfig},
    secret::Secret,
};

#[test]
fn environment_overrides_the_file() {
    let loaded = load_with(
        "server: { listen: 127.0.0.1:1 }\nimmudb: { port: 1, password: file }\n",
        &[
            ("AETHYR_SERVER__LISTEN", "127.0.0.2:2"),
            ("AETHYR_SERVER__SHUTDOWN_GRACE", "1.5"),
            ("AETHYR_IMMUDB__RETRY_COUNT", "9"),
            ("AETHYR_EVENT_SOURCING__ENABLED", "true"),
            ("AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLDS", "{ Room: 5, Exit: 6 }"),
            ("AETHYR_LOGGING__PATH", "123"),
            ("IMMUDB_PORT", "2"),
            ("IMMUDB_USERNAME", "true"),
            ("IMMUDB_PASSWORD", "{ 1: #"),
            ("IMMUDB_DATABASE", "42"),
            ("IMMUDB_LOG_DIR", "not ours"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.server.listen, SocketAddr::from(([127, 0, 0, 2], 2)).into());
    assert_eq!(config.server.shutdown_grace, Duration::from_millis(1500));
    assert!(config.event_sourcing.enabled);
    assert_eq!(
        config.event_sourcing.snapshot_thresholds,
        BTreeMap::from([("Exit".to_owned(), 6), ("Room".to_owned(), 5)])
    );
    assert_eq!(config.logging.path, Path::new("123"));
    let expected = ImmudbConfig {
        port: 2,
        username: "true".into(),
        password: Secret::new("{ 1: #"),
        database: "42".into(),
        retry_count: 9,
        ..ImmudbConfig::default()
    };
    assert_eq!(config.immudb, Some(expected));
    assert_eq!(loaded.warnings, []);
}

#[test]
fn only_an_address_makes_the_section_immudb() {
    let others = [("IMMUDB_PORT", "7"), ("AETHYR_IMMUDB__RETRY_COUNT", "8")];
    let loaded = load_with("", &others).unwrap();
    assert_eq!(loaded.config.immudb, None);
    let ignored = others.map(|(variable, _)| Warning::NoImmudb { variable: variable.into() });
    assert_eq!(loaded.warnings[..2], ignored);

    let with_address = [others[0], others[1], ("IMMUDB_ADDRESS", "db.example")];
    let loaded = load_with("", &with_address).unwrap();
    let expected =
        ImmudbConfig { address: "db.example".into(), port: 7, retry_count: 8, ..ImmudbConfig::default() };
    assert_eq!(loaded.config.immudb, Some(expected));
    assert_eq!(loaded.warnings, [Warning::EventSourcingDisabled]);
}

#[test]
fn empty_variables_of_immudb_count_as_unset() {
    let environment = [("IMMUDB_PASSWORD", ""), ("IMMUDB_PORT", "")];
    let loaded = load_with("immudb: { password: file, port: 5 }", &environment).unwrap();
    let immudb = loaded.config.immudb.unwrap();
    assert_eq!((immudb.password.expose(), immudb.port), ("file", 5));
    assert_eq!(load_with("", &[("IMMUDB_ADDRESS", "")]).unwrap().config.immudb, None);
}

#[test]
fn a_password_in_the_environment_takes_precedence_over_the_file() {
    type Case<'a> = (&'a [(&'a str, &'a str)], (&'a str, Option<&'a str>));
    let yaml = "immudb: { password: theirs, password_file: /theirs }";
    let cases: [Case; 6] = [
        (&[], ("theirs", Some("/theirs"))),
        (&[("IMMUDB_PASSWORD", "ours")], ("ours", None)),
        (&[("IMMUDB_PASSWORD_FILE", "/ours")], ("theirs", Some("/ours"))),
        (&[("IMMUDB_PASSWORD", ""), ("IMMUDB_PASSWORD_FILE", "")], ("theirs", Some("/theirs"))),
        (&[("IMMUDB_PASSWORD", "ours"), ("IMMUDB_PASSWORD_FILE", "/ours")], ("ours", Some("/ours"))),
        (&[("IMMUDB_PASS", "ours")], ("ours", None)),
    ];
    for (environment, expected) in cases {
        let immudb = load_with(yaml, environment).unwrap().config.immudb.unwrap();
        let file = immudb.password_file.as_deref().map(|file| file.to_str().unwrap());
        assert_eq!((immudb.password.expose(), file), expected, "{environment:?}");
    }
    let ignored = load_with("", &[("IMMUDB_PASSWORD_FILE", "/ours")]).unwrap();
    assert_eq!(ignored.config.immudb, None);
    assert_eq!(ignored.warnings[0], Warning::NoImmudb { variable: "IMMUDB_PASSWORD_FILE".into() });
}

#[test]
fn variables_of_clients_are_known_and_change_nothing() {
    for name in OF_CLIENTS {
        assert_eq!(load_with("", &[(name, "/run/secrets/x")]).unwrap().config, Config::default(), "{name}");
    }
    let error = error_of("", &[("AETHYR_TOKEN", "aes1_x")]);
    assert_eq!(error, "AETHYR_TOKEN: not a configuration variable");
}

#[test]
fn variables_of_links_are_ignored_with_one_warning() {
    let links = [
        ("IMMUDB_PORT", "tcp://10.96.12.7:3322"),
        ("IMMUDB_PORT_3322_TCP", "tcp://10.96.12.7:3322"),
        ("IMMUDB_SERVICE_HOST", "10.96.12.7"),
        ("AETHYR_EVENT_STORE_PORT", "tcp://10.96.12.8:50051"),
        ("AETHYR_EVENT_STORE_PORT_50051_TCP", "tcp://10.96.12.8:50051"),
        ("AETHYR_EVENT_STORE_PORT_50051_TCP_ADDR", "10.96.12.8"),
        ("AETHYR_EVENT_STORE_PORT_53_UDP_PROTO", "udp"),
        ("AETHYR_EVENT_STORE_SERVICE_HOST", "10.96.12.8"),
        ("AETHYR_EVENT_STORE_SERVICE_PORT", "50051"),
        ("AETHYR_EVENT_STORE_SERVICE_PORT_GRPC", "50051"),
    ];
    let loaded = load_with("immudb: { port: 5 }\nevent_sourcing: { enabled: true }", &links).unwrap();
    assert_eq!(loaded.config.immudb.unwrap().port, 5);
    let [Warning::Links { variables }] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    let ours = links.iter().map(|(name, _)| *name).filter(|name| name.starts_with("AETHYR_"));
    let ours: Vec<_> = ["IMMUDB_PORT"].into_iter().chain(ours).collect();
    assert_eq!(*variables, ours);
    // Variables that were meant for us are still rejected.
    for meant in ["AETHYR_SERVER__SERVICE_PORT", "AETHYR_SERVER_PORT", "AETHYR_PORT_NUMBER_TCP"] {
        let error = load_with("", &[(meant, "50051")]).unwrap_err();
        assert!(matches!(error, ConfigError::UnknownVariable { .. }), "{meant}: {error}");
    }
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    for (variable, value, text) in [
        ("AETHYR_SERVER__LISEN", "x", "AETHYR_SERVER__LISEN: not a configuration variable"),
        (
            "AETHYR_SERVER_LISTEN",
            "127.0.0.1:1",
            "AETHYR_SERVER_LISTEN: not a configuration variable; did you mean AETHYR_SERVER__LISTEN?",
        ),
        ("AETHYR_SERVER", "{}", "AETHYR_SERVER: not a configuration variable"),
        (
            "AETHYR_LIMITS__UNREAD_BYTES_MAX",
            "1000000",
            "AETHYR_LIMITS__UNREAD_BYTES_MAX: removed; use AETHYR_LIMITS__CALL_BYTES_MAX instead",
        ),
        (
            "AETHYR_IMMUDB__PASSWORD",
            "x",
            "AETHYR_IMMUDB__PASSWORD: not a configuration variable; did you mean IMMUDB_PASSWORD?",
        ),
        (
            "AETHYR_IMMUDB__PASSWORD_FILE",
            "x",
            "AETHYR_IMMUDB__PASSWORD_FILE: not a configuration variable; did you mean IMMUDB_PASSWORD_FILE?",
        ),
        (
            "AETHYR_LIMITS__ID_BYTES_MAX",
            "256",
            "limits.id_bytes_max (from AETHYR_LIMITS__ID_BYTES_MAX): found 256, expected a number of bytes from 1 to 255",
        ),
        (
            "AETHYR_LIMITS__ID_BYTES_MAX",
            "",
            "limits.id_bytes_max (from AETHYR_LIMITS__ID_BYTES_MAX): found nothing, expected a number of bytes from 1 to 255",
        ),
        (
            "AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLDS",
            "{ Room: 0 }",
            "event_sourcing.snapshot_thresholds.Room (from AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLDS): found 0, expected a whole number from 1 to 1000000000",
        ),
        (
            "AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLDS",
            "{ Room",
            "event_sourcing.snapshot_thresholds (from AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLDS): found \"{ Room\", expected a mapping of names to numbers, for example { Room: 500 }",
        ),
        (
            "AETHYR_IMMUDB__RETRY_DELAY",
            "3",
            "immudb.retry_delay (from AETHYR_IMMUDB__RETRY_DELAY): found 3, expected at most immudb.retry_delay_max (2)",
        ),
        (
            "IMMUDB_PORT",
            "65536",
            "immudb.port (from IMMUDB_PORT): found 65536, expected a whole number from 1 to 65535",
        ),
    ] {
        assert_eq!(error_of("immudb: {}", &[(variable, value)]), text);
    }
}
