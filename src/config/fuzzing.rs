//! The fuzz target for configurations. See [`crate::fuzzing`].
//!
//! Any input may be rejected, but no output may show a password, and an effective configuration
//! that is written out must load again.
#![expect(clippy::expect_used, reason = "a broken promise has to end the run")]

use std::path::Path;

use super::{Config, ConfigError, LoadedConfig, parse, resolve};

/// Set in the environment of every run; it must not appear in any output.
const PASSWORD: &str = "xyzzy-plugh-plover";

/// Loads a configuration from the text of a file, followed by environment variables in the form
/// `NAME=value`, each after a NUL.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let mut environment: Vec<(String, String)> = parts
        .filter_map(|variable| variable.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    environment.push(("IMMUDB_PASSWORD".to_owned(), PASSWORD.to_owned()));
    let shown = match of_text(file, environment) {
        Err(error) => format!("{error} {error:?}"),
        Ok(loaded) => {
            let warnings: String = loaded.warnings.iter().map(ToString::to_string).collect();
            let redacted = loaded.config.to_yaml_redacted();
            assert_eq!(said_again(&redacted), redacted);
            format!("{loaded:?} {warnings} {redacted}")
        }
    };
    assert!(text.contains(PASSWORD) || !shown.contains(PASSWORD), "a password is shown: {shown}");
}

fn of_text(text: &str, environment: Vec<(String, String)>) -> Result<LoadedConfig, ConfigError> {
    let path = Path::new("server.yml");
    resolve(Some(path), parse(path, text)?, Vec::new(), environment)
}

/// Loads an effective configuration that was written out, and writes it out again.
fn said_again(redacted: &str) -> String {
    let loaded = of_text(redacted, Vec::new()).expect("the effective configuration can be read");
    Config::to_yaml_redacted(&loaded.config)
}
