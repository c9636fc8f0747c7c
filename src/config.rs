//! The configuration. Environment variables take precedence over a file, usually `conf/server.yml`,
//! and the file takes precedence over the defaults.
//!
//! Every key has a default. An unknown key or a value out of bounds is an error that names the key.
//! No error shows a password: messages of the YAML library that may contain a value are replaced by
//! our own. No code outside this module uses `serde_yaml`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

mod aethyr;
mod changes;
mod environment;
mod folders;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod keys;
mod locations;
mod sections;
#[cfg(test)]
mod tests;
mod warnings;

pub(crate) use folders::KEY_FILE;
pub use sections::{
    AccessConfig, AnchorConfig, AuditConfig, ClientCertificates, EventSourcingConfig, ImmudbConfig,
    ImmudbTlsConfig, LimitsConfig, ListenAddress, ListenAddresses, LoggingConfig, PlayerNamesConfig,
    ProofConfig, RawAppends, RequireContact, ServerConfig, TlsConfig, UniqueNames, WitnessConfig,
    WorldConfig,
};
pub use warnings::Warning;

/// The configuration file that is shipped with the program. It contains every key with its default,
/// except that `event_sourcing.enabled` is true.
pub const SHIPPED: &str = include_str!("../conf/server.yml");
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The configuration, by section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The network interface, and the mode of files.
    pub server: ServerConfig,
    /// Who may call the service.
    pub access: AccessConfig,
    /// The event store, its local files and its clock.
    pub event_sourcing: EventSourcingConfig,
    /// The game world.
    pub world: WorldConfig,
    /// If `None`, events stay on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immudb: Option<ImmudbConfig>,
    /// The signed checkpoints of the history.
    pub proof: ProofConfig,
    /// The auditor of the history in ImmuDB.
    pub audit: AuditConfig,
    /// The limits on requests, stored and pending events, and concurrent work.
    pub limits: LimitsConfig,
    /// The log output.
    pub logging: LoggingConfig,
}

/// A loaded configuration and where it came from.
#[derive(Debug)]
pub struct LoadedConfig {
    /// The effective configuration. Its relative paths start at the working directory.
    pub config: Config,
    /// The file that was read, or `None` if no file was found and the defaults apply.
    pub file: Option<PathBuf>,
    /// The path of the log if relative paths started at the working directory, as in earlier
    /// versions. `None` if it is the same path.
    pub former_log_path: Option<PathBuf>,
    /// For the caller to log: logging is initialized only after the configuration is loaded.
    pub warnings: Vec<Warning>,
}

/// The reason why a configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be opened or read, or is not UTF-8.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system. Its kind is `InvalidData` if the file is not UTF-8.
        source: io::Error,
    },
    /// The file exceeds the limit on its size.
    #[error("{}: file is larger than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        bytes_max: u64,
    },
    /// The file is not valid YAML, has a key twice, or is not a mapping.
    #[error("{}: {problem}", path.display())]
    NotYaml {
        /// The file.
        path: PathBuf,
        /// What is wrong and where, without any value from the file.
        problem: String,
    },
    /// There is no such section, or no such key in its section.
    #[error("{key}: unknown key{}; known keys: {}", closest(key, known), known.join(", "))]
    UnknownKey {
        /// The path of the key, or the name of the section. Stars replace what may be secret.
        key: String,
        /// The names of all keys of the same section, or of all sections.
        known: Vec<&'static str>,
    },
    /// The key, or its variable, existed only in earlier versions.
    #[error("{key}: removed; use {instead} instead")]
    RemovedKey {
        /// The path of the key, or the variable.
        key: String,
        /// The key or variable that replaced it.
        instead: String,
    },
    /// The file contains a YAML merge key.
    #[error("<<: YAML merge keys are not supported; write the keys out")]
    MergeKey,
    /// A variable starts with `AETHYR_` but names no key.
    #[error("{name}: not a configuration variable{}", hint(instead.as_deref()))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The variable that was probably meant, if there is one.
        instead: Option<String>,
    },
    /// A value has the wrong type, is out of range, or conflicts with another key.
    #[error("{key}{}: found {found}, expected {expected}", origin(variable.as_deref()))]
    Invalid {
        /// The path of the key or of an entry in its mapping, or the name of a section.
        key: String,
        /// The environment variable that the value came from.
        variable: Option<String>,
        /// The value, or only its type, in particular if it may be secret.
        found: String,
        /// The allowed values.
        expected: String,
    },
    /// A value passed the check but does not fit its type, which is a defect of the program.
    #[error("internal error: a checked value cannot be loaded; please report this")]
    Unfitting,
}

impl Config {
    /// Loads `file`, which must exist, or the first file found in the default locations. If there
    /// is none, the defaults apply.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<LoadedConfig, ConfigError> {
        let environment: Vec<(String, String)> = environment.collect();
        match file {
            Some(path) => {
                let values = parse(path, &read(path)?)?;
                resolve(Some(path), values, Vec::new(), environment)
            }
            None => load_first(locations::candidates(&environment), environment),
        }
    }

    /// Returns the effective configuration as YAML, with secrets replaced by stars. Serializing a
    /// `Config` that was loaded cannot fail.
    pub fn to_yaml_redacted(&self) -> String {
        serde_yaml::to_string(self).unwrap_or_default()
    }
}

fn load_first(
    candidates: Vec<PathBuf>,
    environment: Vec<(String, String)>,
) -> Result<LoadedConfig, ConfigError> {
    let is_missing = |kind| matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    for (number, path) in candidates.iter().enumerate() {
        // The user's directory may be inaccessible: `HOME` may be that of another user, or of no
        // user.
        let is_of_user = (1..candidates.len().saturating_sub(1)).contains(&number);
        match read(path) {
            Ok(text) => return resolve(Some(path), parse(path, &text)?, Vec::new(), environment),
            Err(ConfigError::Unreadable { source, .. }) if is_missing(source.kind()) => {}
            Err(ConfigError::Unreadable { source, .. })
                if is_of_user && source.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    let missing = Warning::NoFile { looked_for: candidates };
    resolve(None, Mapping::new(), vec![missing], environment)
}

fn resolve(
    path: Option<&Path>,
    mut values: Mapping,
    mut warnings: Vec<Warning>,
    mut environment: Vec<(String, String)>,
) -> Result<LoadedConfig, ConfigError> {
    warnings.extend(aethyr::rename_keys(&mut values));
    warnings.extend(aethyr::rename_variables(&mut environment));
    let overrides = environment::apply(&mut values, environment.into_iter())?;
    warnings.extend(overrides.warnings);

    let of_variable = |error: ConfigError| error.of_variable(&overrides.variables);
    let mut config = keys::check(&values).and_then(|()| typed(values)).map_err(of_variable)?;
    let given = config.event_sourcing.log_path.clone();
    if let Some(start) = path.and_then(locations::start_of_paths) {
        config.start_paths_at(&start);
    }
    let former_log_path = (given != config.event_sourcing.log_path).then_some(given);
    folders::check(&config).map_err(of_variable)?;
    config.access.check(&config.server.listen).map_err(of_variable)?;
    if !config.event_sourcing.enabled {
        warnings.push(Warning::EventSourcingDisabled);
    }
    Ok(LoadedConfig { config, file: path.map(Path::to_owned), former_log_path, warnings })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes_max: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|_| unreadable(io::ErrorKind::InvalidData.into()))
}

fn parse(path: &Path, text: &str) -> Result<Mapping, ConfigError> {
    let not_yaml = |problem| ConfigError::NotYaml { path: path.to_owned(), problem };
    let value = serde_yaml::from_str(text).map_err(|error| not_yaml(problem(text, &error)))?;
    let mut values = match value {
        Value::Mapping(values) => values,
        Value::Null => Mapping::new(),
        _ => return Err(not_yaml("not a mapping of sections to keys".into())),
    };
    // A section without keys is still present, which matters for `immudb`.
    for section in values.values_mut().filter(|section| section.is_null()) {
        *section = Mapping::new().into();
    }
    Ok(values)
}

/// Describes why the text is not valid YAML, without quoting it. Parsing it again with all values
/// ignored distinguishes syntax errors, whose messages are fixed, from errors that quote a value.
fn problem(text: &str, error: &serde_yaml::Error) -> String {
    if let Err(syntax) = serde_yaml::from_str::<IgnoredAny>(text) {
        return syntax.to_string();
    }
    let problem = if error.to_string().contains("duplicate entry") {
        "duplicate key"
    } else {
        "value does not match its tag"
    };
    match error.location() {
        Some(at) => format!("{problem} at line {}, column {}", at.line(), at.column()),
        None => problem.into(),
    }
}

fn typed(values: Mapping) -> Result<Config, ConfigError> {
    // The library's message could contain a value, and adds nothing: the check has already rejected
    // invalid values.
    let config: Config =
        serde_yaml::from_value(Value::Mapping(values)).map_err(|_| ConfigError::Unfitting)?;
    config.server.check_tls()?;
    config.world.check_player_names()?;
    config.limits.check_message()?;
    config.limits.check_call_bytes()?;
    if let Some(immudb) = &config.immudb {
        immudb.check_retry_delays()?;
        immudb.check_tls()?;
    }
    Ok(config)
}

impl ConfigError {
    fn of_variable(mut self, variables: &BTreeMap<&'static str, String>) -> ConfigError {
        if let ConfigError::Invalid { key, variable, .. } = &mut self {
            // For an entry of a mapping, the name of the entry follows the path of the key.
            let path = key.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
            *variable = variables.get(path.as_str()).cloned();
        }
        self
    }
}

/// Returns a hint with the closest known name, or an empty string if no name is close.
fn closest(key: &str, known: &[&'static str]) -> String {
    let name = key.rsplit('.').next().unwrap_or(key).to_lowercase();
    let nearest = known.iter().map(|known| (distance(&name, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 1 + known.len() / 5 => format!(" (did you mean {known}?)"),
        Some(_) | None => String::new(),
    }
}

/// Returns the Levenshtein distance between two strings.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut next = vec![line + 1];
        let mut above = row.iter().zip(row.iter().skip(1));
        for another in other.chars() {
            let Some((diagonal, up)) = above.next() else { break };
            let left = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(letter != another)).min(up + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

fn origin(variable: Option<&str>) -> String {
    match variable {
        Some(variable) => format!(" (from {variable})"),
        None => String::new(),
    }
}

fn hint(instead: Option<&str>) -> String {
    match instead {
        Some(instead) => format!("; did you mean {instead}?"),
        None => String::new(),
    }
}
