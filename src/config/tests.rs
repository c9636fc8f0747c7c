//! Tests of the configuration as a whole: from a file and an environment to a configuration or an
//! error that names the key. Also provides helpers for the tests of the submodules.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::*;
use crate::secret::Secret;

pub(super) fn load_with(yaml: &str, environment: &[(&str, &str)]) -> Result<LoadedConfig, ConfigError> {
    // There is no path, so relative paths stay as they are.
    resolve(None, parse(Path::new("server.yml"), yaml)?, Vec::new(), variables(environment).collect())
}

pub(super) fn config_of(yaml: &str) -> Config {
    load_with(yaml, &[]).unwrap().config
}

pub(super) fn error_of(yaml: &str, environment: &[(&str, &str)]) -> String {
    load_with(yaml, environment).unwrap_err().to_string()
}

fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let pairs: Vec<_> = pairs.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    pairs.into_iter()
}

pub(super) fn with_immudb() -> Config {
    Config { immudb: Some(ImmudbConfig::default()), ..Config::default() }
}

/// Returns the path and value of every key, in order.
pub(super) fn leaves(yaml: &str) -> Vec<(String, Value)> {
    let sections: Mapping = serde_yaml::from_str(yaml).unwrap();
    let mut leaves = Vec::new();
    for (section, keys) in sections {
        for (name, value) in keys.as_mapping().unwrap().clone() {
            let path = format!("{}.{}", section.as_str().unwrap(), name.as_str().unwrap());
            leaves.push((path, value));
        }
    }
    leaves
}

#[test]
fn shipped_file_has_every_key_with_its_default() {
    let mut expected = leaves(&with_immudb().to_yaml_redacted());
    for (path, value) in &mut expected {
        match path.as_str() {
            "event_sourcing.enabled" => *value = true.into(),
            "immudb.password" => *value = ImmudbConfig::default().password.expose().into(),
            _ => {}
        }
    }
    let shipped = leaves(SHIPPED);
    for (expected, shipped) in expected.iter().zip(&shipped) {
        assert_eq!(expected, shipped);
    }
    assert_eq!(expected.len(), shipped.len());
}

/// Returns the keys that do not have a comment above them.
fn keys_without_comment(yaml: &str) -> Vec<&str> {
    let is_comment = |line: &str| line.starts_with("  # ");
    let is_key = |line: &str| line.starts_with("  ") && !is_comment(line);
    let pairs = yaml.lines().zip(yaml.lines().skip(1));
    pairs.filter(|(above, line)| is_key(line) && !is_comment(above)).map(|(_, line)| line).collect()
}

#[test]
fn shipped_file_explains_every_key() {
    assert_eq!(keys_without_comment(SHIPPED), Vec::<&str>::new());
    assert_eq!(keys_without_comment("a:\n  # Is explained.\n  b: 1\n  c: 2\n"), ["  c: 2"]);
}

#[test]
fn shipped_file_is_the_defaults_with_event_sourcing_on() {
    let mut expected = with_immudb();
    expected.event_sourcing.enabled = true;
    let loaded = load_with(SHIPPED, &[]).unwrap();
    assert_eq!(loaded.config, expected);
    assert_eq!(loaded.warnings, []);
}

#[test]
fn empty_file_means_defaults() {
    for yaml in ["", "# nothing\n", "{}", "server:\nlimits:\n", "server: {}"] {
        assert_eq!(config_of(yaml), Config::default(), "{yaml:?}");
    }
}

#[test]
fn section_immudb_counts_as_soon_as_it_is_named() {
    for yaml in ["immudb:\n", "immudb: {}", "immudb:\n  # port: 1\n"] {
        assert_eq!(config_of(yaml), with_immudb(), "{yaml:?}");
    }
}

#[test]
fn values_of_the_file_are_read_in_their_units() {
    let config = config_of(
        "server: { listen: '[::1]:7', shutdown_grace: 3 }\n\
         event_sourcing: { snapshot_thresholds: { Room: 500 }, log_path: /a }\n\
         immudb: { retry_delay: 0.25, password: '12 3', address: '::1' }\n\
         limits: { disk_free_min: 0 }\n\
         logging: { level: 'info,tonic=warn' }\n",
    );
    let immudb = config.immudb.unwrap();
    assert_eq!(config.server.listen, SocketAddr::from((Ipv6Addr::LOCALHOST, 7)).into());
    assert_eq!(config.server.shutdown_grace, Duration::from_secs(3));
    assert_eq!(config.event_sourcing.snapshot_thresholds, BTreeMap::from([("Room".to_owned(), 500)]));
    assert_eq!(config.event_sourcing.log_path, Path::new("/a"));
    assert_eq!(immudb.retry_delay, Duration::from_millis(250));
    assert_eq!(immudb.password, Secret::new("12 3"));
    assert_eq!(immudb.address, "::1");
    assert_eq!(config.limits.disk_free_min, 0);
    assert_eq!(config.logging.level, "info,tonic=warn");
}

#[test]
fn an_empty_path_of_the_public_key_means_that_there_is_none() {
    let key = |yaml: &str, environment: &[(&str, &str)]| {
        load_with(yaml, environment).unwrap().config.immudb.unwrap().public_key_file
    };
    let variable = "AETHYR_IMMUDB__PUBLIC_KEY_FILE";
    assert_eq!(key("immudb: { public_key_file: '' }", &[]), None);
    assert_eq!(key("immudb: { public_key_file: /k }", &[]), Some("/k".into()));
    assert_eq!(key("immudb:", &[(variable, "/k")]), Some("/k".into()));
    assert_eq!(key("immudb: { public_key_file: /k }", &[(variable, "")]), None);
}

#[test]
fn no_error_shows_a_password() {
    for yaml in [
        "immudb:\n  password: \"xyzzy\n",
        "immudb:\n  password: xyzzy: 1\n",
        "immudb:\n  password: *xyzzy\n",
        "immudb:\n  password: !!int xyzzy\n",
        "immudb:\n  password: !xyzzy 1\n",
        "immudb:\n  password: 'a\n  xyzzy'b\n",
        "immudb:\n  password: \"\\xyzzy\"\n",
        "immudb:\n  password: {xyzzy, xyzzy}\n",
        "immudb:\n  password: {xyzzy: 1}\n",
        "immudb:\n  password: [xyzzy]\n",
        "immudb:\n  password: a\n  password: xyzzy\n",
        "immudb:\n  password:xyzzy\n",
        "immudb:\n  password:xyzzy:\n",
        "immudb:\n  - password: xyzzy\n",
        "immudb: xyzzy\n",
        "immudb: { password: a,xyzzy }\n",
        "immudb: { password:xyzzy }\n",
        "immudb: { password: a, xyzzy: }\n",
        "immudb: { address: 'immudb://immudb:xyzzy@localhost' }\n",
        "immudb: { password: xyzzy, port: no }\n",
        "immudb: { password: xyzzy, unknown: 1 }\n",
        "immudb:\n password: xyzzy\n  port: 1\n",
        "password: xyzzy\n",
        "password:xyzzy\n",
        "xyzzy\n",
        "immudb: { password: xyzzy }\n---\n",
        "immudb: { password: xyzzy }\nimmudb: { password: xyzzy }\n",
        "immudb: { password: &xyzzy }\n",
        "immudb: { <<: xyzzy }\n",
        "immudb: { password: xyzzy\n",
        "immudb: { password: xyzzy\0 }\n",
    ] {
        let error = load_with(yaml, &[]).expect_err(yaml);
        assert!(!format!("{error} {error:?}").contains("xyzzy"), "{yaml} {error:?}");
    }
    let environment = [("IMMUDB_PASSWORD", "xyzzy"), ("IMMUDB_PORT", "no")];
    let error = load_with("immudb: {}", &environment).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("xyzzy"), "{error:?}");
}

#[test]
fn faults_of_syntax_say_where() {
    for (yaml, text) in [
        ("a: b: c", "mapping values are not allowed in this context at line 1 column 5"),
        ("server: {}\nserver: {}\n", "duplicate key"),
        ("server:\n  listen: !!int x\n", "value does not match its tag at line 2"),
        ("- 1", "not a mapping of sections to keys"),
    ] {
        let error = error_of(yaml, &[]);
        assert!(error.contains("server.yml: ") && error.contains(text), "{error}");
    }
}

#[test]
fn redacted_yaml_hides_secrets_and_can_be_read_again() {
    let mut config = with_immudb();
    config.server.shutdown_grace = Duration::from_millis(2500);
    immudb_of(&mut config).password = Secret::new("xyzzy");
    let yaml = config.to_yaml_redacted();
    assert!(!format!("{yaml} {config:?}").contains("xyzzy"), "{yaml}");
    assert!(yaml.contains("password: '***'"), "{yaml}");
    assert!(yaml.contains("shutdown_grace: 2.5\n"), "{yaml}");

    immudb_of(&mut config).password = Secret::new("***");
    assert_eq!(config_of(&yaml), config);
    assert!(!Config::default().to_yaml_redacted().contains("immudb"));
}

fn immudb_of(config: &mut Config) -> &mut ImmudbConfig {
    config.immudb.as_mut().unwrap()
}

#[test]
fn the_first_file_that_is_there_counts_and_without_one_the_defaults_do() {
    let folder = tempfile::tempdir().unwrap();
    // A path through something that is not a directory counts as missing.
    fs::write(folder.path().join("file"), "").unwrap();
    let paths = ["first.yml", "file/x.yml", "second.yml"].map(|name| folder.path().join(name));
    let load = || {
        let environment = variables(&[("AETHYR_LIMITS__ID_BYTES_MAX", "9")]).collect();
        load_first(paths.to_vec(), environment).unwrap()
    };
    let loaded = load();
    assert_eq!(loaded.config.limits.id_bytes_max, 9);
    assert_eq!(loaded.file, None);
    let missing = Warning::NoFile { looked_for: paths.to_vec() };
    assert_eq!(loaded.warnings, [missing, Warning::EventSourcingDisabled]);
    for path in [&paths[2], &paths[0]] {
        fs::write(path, "event_sourcing: { enabled: true }").unwrap();
        let loaded = load();
        assert_eq!((loaded.file.as_ref(), loaded.warnings), (Some(path), Vec::new()));
    }
}

#[test]
fn relative_paths_start_at_the_folder_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conf/server.yml");
    fs::create_dir(folder.path().join("conf")).unwrap();
    let yaml = "logging: { path: /var/log/a }\nworld: { read_models_path: w/r }\n\
                access: { file: conf/access.yml }\n\
                server:\n  listen: ['127.0.0.1:1', 'unix:run/store.sock']\n  \
                tls: { certificate_file: c, key_file: /k, client_ca_file: a }\n\
                immudb:\n  public_key_file: conf/immudb.pem\n  password_file: p\n  \
                tls: { ca_file: a, certificate_file: c, key_file: k }\n";
    fs::write(&path, yaml).unwrap();
    let loaded = Config::load(Some(&path), variables(&[("AETHYR_EVENT_SOURCING__INDEX_PATH", "i")])).unwrap();
    let config = loaded.config;
    assert_eq!(config.event_sourcing.log_path, folder.path().join("storage/log"));
    assert_eq!(config.event_sourcing.storage_path, folder.path().join("storage/events"));
    assert_eq!(config.event_sourcing.index_path, folder.path().join("i"));
    assert_eq!(config.world.read_models_path, folder.path().join("w/r"));
    assert_eq!(config.logging.path, Path::new("/var/log/a"));
    let at = |name: &str| folder.path().join(name);
    assert_eq!(config.access.file, Some(at("conf/access.yml")));
    assert_eq!(config.server.listen.unix(), Some(at("run/store.sock").as_path()));
    let tls = config.server.tls.unwrap();
    assert_eq!((tls.certificate_file, tls.key_file), (at("c"), "/k".into()));
    assert_eq!(tls.client_ca_file, Some(at("a")));
    let immudb = config.immudb.unwrap();
    assert_eq!(immudb.public_key_file, Some(at("conf/immudb.pem")));
    assert_eq!(immudb.password_file, Some(at("p")));
    let tls = immudb.tls.unwrap();
    assert_eq!([tls.ca_file, tls.certificate_file, tls.key_file], ["a", "c", "k"].map(|name| Some(at(name))));
    assert_eq!(loaded.former_log_path.as_deref(), Some(Path::new("storage/log")));
}

#[test]
fn a_named_file_that_is_missing_is_an_error_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no.yml");
    let error = Config::load(Some(&path), variables(&[])).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error:?}");
    assert!(error.to_string().contains("no.yml: "), "{error}");
}

#[test]
fn a_file_that_cannot_be_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = load_first(vec![folder.path().to_owned()], Vec::new()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error:?}");

    let path = folder.path().join("large.yml");
    fs::write(&path, " ".repeat(FILE_BYTES_MAX as usize)).unwrap();
    assert!(Config::load(Some(&path), variables(&[])).is_ok());
    fs::write(&path, " ".repeat(FILE_BYTES_MAX as usize + 1)).unwrap();
    let error = Config::load(Some(&path), variables(&[])).unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error:?}");

    fs::write(&path, b"immudb: { password: '\xff' }").unwrap();
    let error = Config::load(Some(&path), variables(&[])).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error:?}");
}

#[test]
fn a_folder_has_a_path_that_the_system_takes() {
    let deep = "a/".repeat(300_000);
    let yaml = format!("event_sourcing: {{ log_path: {deep} }}");
    let expected = "event_sourcing.log_path: found a string, expected a directory path of at most 4095 bytes";
    assert_eq!(error_of(&yaml, &[]), expected);
    let error = error_of("logging: { path: \"a\\0b\" }", &[]);
    assert!(error.starts_with("logging.path: "), "{error}");
}

#[test]
fn a_budget_of_bytes_that_no_large_request_fits_into_is_refused_and_says_what_is_needed() {
    let error = error_of("limits:\n  call_bytes_max: 67108864\n", &[]);
    for part in ["limits.call_bytes_max", "67108864", "limits.append_bytes_max (8388608)"] {
        assert!(error.contains(part), "{error}");
    }
    let needed = error.split("at least ").nth(1).unwrap().split(',').next().unwrap();
    config_of(&format!("limits:\n  call_bytes_max: {needed}\n"));
    config_of("limits:\n  call_bytes_max: 67108864\n  append_bytes_max: 4194304\n");
}

#[test]
fn an_address_that_others_reach_needs_a_statement_of_who_may_call() {
    for listen in ["0.0.0.0:1", "'[::]:1'", "10.0.0.7:1", "['127.0.0.1:1', '0.0.0.0:1', 'unix:/run/a']"] {
        let yaml = format!("server: {{ listen: {listen} }}\n");
        let error = error_of(&yaml, &[]);
        assert!(error.starts_with("server.listen: found "), "{listen}: {error}");
        for part in ["access.file", "`access: { anonymous: admin }`", "AETHYR_ACCESS__ANONYMOUS=admin"] {
            assert!(error.contains(part), "{listen}: {error}");
        }
        for access in ["access: { file: conf/access.yml }", "access: { anonymous: admin }"] {
            config_of(&format!("{yaml}{access}\n"));
        }
        load_with(&yaml, &[("AETHYR_ACCESS__ANONYMOUS", "admin")]).unwrap();
    }
    for listen in ["127.0.0.2:1", "'[::1]:1'", "'unix:/run/a'", "['127.0.0.1:1', 'unix:/run/a']"] {
        config_of(&format!("server: {{ listen: {listen} }}"));
    }
    let error = error_of("access: { anonymous: '' }", &[("AETHYR_SERVER__LISTEN", "127.0.0.1:1,10.0.0.7:2")]);
    assert!(error.starts_with("server.listen (from AETHYR_SERVER__LISTEN): found 10.0.0.7:2, "), "{error}");
}

#[test]
fn the_lines_that_the_refusal_shows_are_accepted() {
    let error = error_of("server: { listen: 0.0.0.0:1 }", &[]);
    let lines: Vec<&str> =
        error.split('`').skip(1).step_by(2).filter(|line| line.starts_with("access:")).collect();
    assert_eq!(lines.len(), 2, "{error}");
    for line in lines {
        config_of(&format!("server: {{ listen: 0.0.0.0:1 }}\n{line}\n"));
    }
}
