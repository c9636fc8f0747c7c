//! The configuration: the environment goes before a file, usually `conf/server.yml`, and that before the defaults.
//!
//! Every key has a default. An unknown key and a value out of its bounds are errors that name the
//! key. No error shows a password: texts of the YAML library that can hold a value are replaced by
//! our own. The only code that names `serde_yaml`.

use std::collections::BTreeMap;
use std::fmt;
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
pub(crate) mod fuzzing;
mod keys;
mod places;
mod sections;
#[cfg(test)]
mod tests;

pub use sections::{
    EventSourcingConfig, ImmudbConfig, LimitsConfig, LoggingConfig, RawAppends, RequireContact, ServerConfig,
    WorldConfig,
};

/// The configuration that comes with the program: every key with its default.
pub const SHIPPED: &str = include_str!("../conf/server.yml");
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub event_sourcing: EventSourcingConfig,
    pub world: WorldConfig,
    /// Without it the events stay on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immudb: Option<ImmudbConfig>,
    pub limits: LimitsConfig,
    pub logging: LoggingConfig,
}

#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// The file that was read. `None`: there is none, and the defaults are in force.
    pub file: Option<PathBuf>,
    /// Where the log would lie if relative paths started at the working directory, as they once did, and that is another place.
    pub former_log_path: Option<PathBuf>,
    /// For the caller to log, who has no log before this.
    pub warnings: Vec<Warning>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    NoFile {
        looked_for: Vec<PathBuf>,
    },
    EventSourcingDisabled,
    NoImmudb {
        variable: String,
    },
    /// A key or variable that Aethyr's documents have, read as ours.
    OtherName {
        name: String,
        instead: String,
    },
    /// A variable that Aethyr reads.
    NotRead {
        variable: String,
        instead: String,
    },
    /// Made by Kubernetes or Docker of the name of another service.
    Links {
        variables: Vec<String>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: more than {bytes_max} bytes", path.display())]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error("{}: {problem}", path.display())]
    NotYaml { path: PathBuf, problem: String },
    #[error("{key}: no such key{}, there are {}", closest(key, known), known.join(", "))]
    UnknownKey { key: String, known: Vec<&'static str> },
    #[error("{key}: was removed; set {instead} instead")]
    RemovedKey { key: String, instead: String },
    #[error("<<: YAML merge keys are not supported; write the keys out")]
    MergeKey,
    #[error("{name}: names no key{}", hint(instead.as_deref()))]
    UnknownVariable { name: String, instead: Option<String> },
    #[error("{key}{}: {found}, where there should be {expected}", origin(variable.as_deref()))]
    Invalid {
        key: String,
        /// The variable of the environment that the value came from.
        variable: Option<String>,
        found: String,
        expected: String,
    },
    #[error("a value passed its check and fits no field, which is a fault of this program")]
    Unfitting,
}

impl Config {
    /// Reads `file`, which must then be there, or the first that is found where one is looked for.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let environment: Vec<(String, String)> = environment.collect();
        match file {
            Some(path) => {
                let values = parse(path, &read(path)?)?;
                resolve(Some(path), values, Vec::new(), environment)
            }
            None => load_first(places::candidates(&environment), environment),
        }
    }

    /// What is in force, as YAML, with stars for secrets. Nothing in a `Config` that was loaded can
    /// fail to be written.
    pub fn to_yaml_redacted(&self) -> String {
        serde_yaml::to_string(self).unwrap_or_default()
    }
}

fn load_first(candidates: Vec<PathBuf>, environment: Vec<(String, String)>) -> Result<Loaded, ConfigError> {
    let is_missing = |kind| matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    for (number, path) in candidates.iter().enumerate() {
        // The home of another user, or of none, may be out of reach.
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
) -> Result<Loaded, ConfigError> {
    warnings.extend(aethyr::rename_keys(&mut values));
    warnings.extend(aethyr::rename_variables(&mut environment));
    let overrides = environment::apply(&mut values, environment.into_iter())?;
    warnings.extend(overrides.warnings);

    let of_variable = |error: ConfigError| error.of_variable(&overrides.variables);
    let mut config = keys::check(&values).and_then(|()| typed(values)).map_err(of_variable)?;
    let given = config.event_sourcing.log_path.clone();
    if let Some(start) = path.and_then(places::start_of_paths) {
        config.start_paths_at(&start);
    }
    let former_log_path = (given != config.event_sourcing.log_path).then_some(given);
    folders::check(&config).map_err(of_variable)?;
    if !config.event_sourcing.enabled {
        warnings.push(Warning::EventSourcingDisabled);
    }
    Ok(Loaded { config, file: path.map(Path::to_owned), former_log_path, warnings })
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
        _ => return Err(not_yaml("not a list of sections with their keys".into())),
    };
    // A section whose keys are all left out is still named, which counts for `immudb`.
    for section in values.values_mut().filter(|section| section.is_null()) {
        *section = Mapping::new().into();
    }
    Ok(values)
}

/// What is wrong with a text that is no YAML, without a word of the text. Reading it once more and
/// ignoring what it says tells faults of syntax, whose texts are fixed, from those that quote.
fn problem(text: &str, error: &serde_yaml::Error) -> String {
    if let Err(syntax) = serde_yaml::from_str::<IgnoredAny>(text) {
        return syntax.to_string();
    }
    let problem = if error.to_string().contains("duplicate entry") {
        "a key stands here twice"
    } else {
        "a value does not fit its tag"
    };
    match error.location() {
        Some(at) => format!("{problem}, at line {} column {}", at.line(), at.column()),
        None => problem.into(),
    }
}

fn typed(values: Mapping) -> Result<Config, ConfigError> {
    // The library's own text could show a value, and says nothing that the check left open.
    let config: Config =
        serde_yaml::from_value(Value::Mapping(values)).map_err(|_| ConfigError::Unfitting)?;
    config.limits.check_message()?;
    config.limits.check_call_bytes()?;
    if let Some(immudb) = &config.immudb {
        immudb.check_retry_delays()?;
    }
    Ok(config)
}

impl ConfigError {
    fn of_variable(mut self, variables: &BTreeMap<&'static str, String>) -> ConfigError {
        if let ConfigError::Invalid { key, variable, .. } = &mut self {
            // An entry of a map is named with its own name behind the path of the key.
            let path = key.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
            *variable = variables.get(path.as_str()).cloned();
        }
        self
    }
}

/// The known name that is meant, where one is close.
fn closest(key: &str, known: &[&'static str]) -> String {
    let name = key.rsplit('.').next().unwrap_or(key).to_lowercase();
    let nearest = known.iter().map(|known| (distance(&name, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 1 + known.len() / 5 => format!(" (did you mean {known}?)"),
        Some(_) | None => String::new(),
    }
}

/// How many letters have to be changed, added or removed to make one text of the other.
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
        Some(instead) => format!(", {instead} does"),
        None => String::new(),
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NoFile { looked_for } => {
                let looked_for: Vec<_> = looked_for.iter().map(|path| path.display().to_string()).collect();
                write!(f, "no configuration file ({}), the defaults are in force", looked_for.join(", "))
            }
            Warning::EventSourcingDisabled => {
                f.write_str("event_sourcing.enabled is not true, writes are refused")
            }
            Warning::OtherName { name, instead } => {
                write!(f, "{name}, as Aethyr's documents have it, is read as {instead}; write that")
            }
            Warning::NotRead { variable, instead } => {
                write!(f, "{variable}, which Aethyr reads, is not read; set {instead}")
            }
            Warning::Links { variables } => write!(
                f,
                "ignored: {} (Kubernetes and Docker set such variables for other services)",
                variables.join(", ")
            ),
            Warning::NoImmudb { variable } => {
                write!(f, "{variable} is ignored, neither a section immudb nor IMMUDB_ADDRESS is there")
            }
        }
    }
}
