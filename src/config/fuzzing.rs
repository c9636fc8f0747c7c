//! Configurations as the fuzz targets hand them in. See [`crate::fuzzing`].
#![expect(clippy::expect_used, reason = "a broken promise has to end the run")]

use std::path::Path;

use super::{Config, ConfigError, Loaded, parse, resolve};

/// In the environment of every run, and never to be seen again.
const PASSWORD: &str = "xyzzy-plugh-plover";

/// The text of a file, and behind it variables of the environment as `NAME=value`, with a NUL before each.
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

fn of_text(text: &str, environment: Vec<(String, String)>) -> Result<Loaded, ConfigError> {
    let path = Path::new("server.yml");
    resolve(Some(path), parse(path, text)?, Vec::new(), environment)
}

/// What is in force, written out and read back, is in force again.
fn said_again(redacted: &str) -> String {
    let loaded = of_text(redacted, Vec::new()).expect("what was in force can be read");
    Config::to_yaml_redacted(&loaded.config)
}
