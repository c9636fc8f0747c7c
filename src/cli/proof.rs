//! `proof`: writes the proof of an event to standard output, or prints the verifier key of the log.
//!
//! The proof comes from a running service. The key is read from the key file, so the service may be
//! stopped. No command prints the private key.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Error,
    client::{ServiceArgs, connect, number, print, print_exactly, text},
    report, run, say,
};
use crate::{
    config::Config,
    grpc::ClientSettings,
    proof::{KeyError, SigningKey, VerifierKey},
    proof_file::{ProofFile, ProofFileError},
    transparency::generations,
};

const GET_PROOF: &str = "aethyr.eventstore.v1.EventStoreService/GetProof";

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct ProofArgs {
    #[command(subcommand)]
    what: Option<ProofCommand>,
    /// Aggregate id
    #[arg(required_unless_present = "event_id")]
    aggregate: Option<String>,
    /// Sequence number of the event
    #[arg(required_unless_present = "event_id")]
    sequence: Option<u64>,
    /// Event id, instead of the aggregate id and the sequence number
    #[arg(long, value_name = "ID", conflicts_with_all = ["aggregate", "sequence"])]
    event_id: Option<String>,
    /// Leave out the event: the proof has hashes only
    #[arg(long)]
    without_record: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
enum ProofCommand {
    /// Print the verifier key of the log, which verifies its checkpoints and proofs. The service
    /// may be stopped
    Key,
}

/// Why there is no proof, or no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    #[error("the answer of the service is not a proof: {0}")]
    Answer(#[source] ProofFileError),
    #[error(
        "{path}: there is no key (proof.key_file): the service creates it at its first start; if it was lost, \
         restore it"
    )]
    NoKey { path: PathBuf },
    #[error("{path}: {source}")]
    Key { path: PathBuf, source: KeyError },
}

impl ProofArgs {
    /// Returns whether the command reads a file at a configured path.
    pub(super) fn uses_files(&self) -> bool {
        self.what.is_some()
    }
}

/// Runs the command.
pub(super) fn run_command(config: &Config, args: ProofArgs) -> ExitCode {
    match args.what {
        Some(ProofCommand::Key) => match print_key(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => report(&error),
        },
        None => {
            let request = json!({
                "aggregate_id": args.aggregate.unwrap_or_default(),
                "sequence_number": args.sequence.unwrap_or_default(),
                "event_id": args.event_id.unwrap_or_default(),
                "without_record": args.without_record,
            });
            let service = args.service;
            run(async move { write(service.settings(config)?, request).await })
        }
    }
}

/// Writes a proof to standard output.
///
/// # Errors
/// Returns an error if the service cannot be reached, or has no proof of the event.
async fn write(service: ClientSettings, request: Value) -> Result<(), Error> {
    let answer = connect(service).await?.call(GET_PROOF, &request).await?;
    let proof = text(&answer, "tlog_proof");
    // A proof can be printed to a terminal as it is. Another answer may contain anything.
    ProofFile::parse(proof.as_bytes()).map_err(ProofError::Answer)?;
    print_exactly(proof)?;
    if answer.get("anchored").and_then(Value::as_bool) != Some(true) {
        let size = number(&answer, "checkpoint_size");
        say(&format!("the checkpoint of {size} events has not reached an anchor yet"));
    }
    Ok(())
}

fn print_key(config: &Config) -> Result<(), Error> {
    print(&LogIdentity::load(config)?.present.to_string())
}

/// A verifier key of the log, and how long its checkpoints are those of the present history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownKey {
    pub key: VerifierKey,
    /// Checkpoints up to this size are a part of the present history. Larger ones belong to a
    /// generation that has ended.
    pub agreed: u64,
}

/// The verifier keys of this log. They differ in their names, one for each generation, and while a
/// key is replaced, the former one counts as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogIdentity {
    /// The one that verifies the present checkpoints.
    pub present: VerifierKey,
    /// All of them.
    pub keys: Vec<KnownKey>,
}

impl LogIdentity {
    /// Reads the key file and the generations of the configured log. Creates nothing.
    ///
    /// # Errors
    /// Returns an error if there is no key, or if a file cannot be read.
    pub(super) fn load(config: &Config) -> Result<Self, Error> {
        let path = &config.proof.key_file;
        let key = read_key(path)?.ok_or_else(|| ProofError::NoKey { path: path.clone() })?;
        let former = read_key(&former_path(path))?;
        let log_path = &config.event_sourcing.log_path;
        let origins = generations::origins(log_path, key.verifier().name())
            .map_err(|error| Error::of_file(&generations::path(log_path), error))?;
        let invalid = |source| ProofError::Key { path: path.clone(), source };
        Ok(Self::of(&key, former.as_ref(), &origins).map_err(invalid)?)
    }

    /// `origins` has the origin of each generation, the present one last, and the size up to which
    /// its checkpoints are a part of the present history.
    fn of(
        key: &SigningKey,
        former: Option<&SigningKey>,
        origins: &[(String, u64)],
    ) -> Result<Self, KeyError> {
        let mut present = key.verifier().clone();
        let mut keys = Vec::new();
        for (origin, agreed) in origins {
            present = key.renamed(origin)?.verifier().clone();
            keys.push(KnownKey { key: present.clone(), agreed: *agreed });
            if let Some(former) = former {
                keys.push(KnownKey { key: former.renamed(origin)?.verifier().clone(), agreed: *agreed });
            }
        }
        Ok(Self { present, keys })
    }
}

/// Returns the path of the former key while a key is replaced.
fn former_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".old");
    path.with_file_name(name)
}

/// Reads a private key. Returns `None` if there is no file.
fn read_key(path: &Path) -> Result<Option<SigningKey>, Error> {
    let encoded = match fs::read_to_string(path) {
        Ok(encoded) => encoded,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::of_file(path, error)),
    };
    let key = SigningKey::from_encoded(encoded.trim_end());
    Ok(Some(key.map_err(|source| ProofError::Key { path: path.to_owned(), source })?))
}

#[cfg(test)]
mod tests {
    use clap::{Parser, error::ErrorKind};

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        proof: ProofArgs,
    }

    fn parsed(arguments: &[&str]) -> Result<ProofArgs, ErrorKind> {
        let parsed = Arguments::try_parse_from([&["proof"][..], arguments].concat());
        parsed.map(|arguments| arguments.proof).map_err(|error| error.kind())
    }

    #[test]
    fn an_event_is_named_in_one_of_two_ways() {
        let by_number = parsed(&["room-1", "7"]).unwrap();
        assert_eq!((by_number.aggregate.as_deref(), by_number.sequence), (Some("room-1"), Some(7)));
        assert!(!by_number.uses_files() && by_number.event_id.is_none());
        let by_id = parsed(&["--event-id", "2ac40ea0-5ec1-4722-9e94-33876d162baa"]).unwrap();
        assert!(by_id.aggregate.is_none() && by_id.event_id.is_some());
        for missing in [&[][..], &["room-1"]] {
            assert_eq!(parsed(missing).unwrap_err(), ErrorKind::MissingRequiredArgument);
        }
        assert_eq!(parsed(&["room-1", "7", "--event-id", "x"]).unwrap_err(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn key_is_a_command_and_an_aggregate_behind_two_dashes() {
        let key = parsed(&["key"]).unwrap();
        assert!(key.uses_files() && key.aggregate.is_none());
        let aggregate = parsed(&["--", "key", "7"]).unwrap();
        assert_eq!((aggregate.aggregate.as_deref(), aggregate.sequence), (Some("key"), Some(7)));
    }

    #[test]
    fn each_generation_has_a_key_and_the_size_up_to_which_it_counts() {
        const ORIGINS: [&str; 2] = ["log.example/aethyr", "log.example/aethyr/2"];
        let [key, former] = [ORIGINS[0]; 2].map(|name| SigningKey::generate(name).unwrap());
        let origins = [(ORIGINS[0].to_owned(), 50), (ORIGINS[1].to_owned(), u64::MAX)];
        let first = LogIdentity::of(&key, None, &origins[..1]).unwrap();
        assert_eq!(first.present, *key.verifier());
        assert_eq!(first.keys, [KnownKey { key: key.verifier().clone(), agreed: 50 }]);
        let second = LogIdentity::of(&key, Some(&former), &origins).unwrap();
        assert_eq!(second.present.name(), ORIGINS[1]);
        let known: Vec<(&str, u64)> =
            second.keys.iter().map(|known| (known.key.name(), known.agreed)).collect();
        let expected = [(ORIGINS[0], 50), (ORIGINS[0], 50), (ORIGINS[1], u64::MAX), (ORIGINS[1], u64::MAX)];
        assert_eq!(known, expected);
        assert_ne!(second.keys[0].key, second.keys[1].key);
    }

    #[test]
    fn a_key_is_read_with_its_line_end_and_is_not_shown_in_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint.key");
        assert!(read_key(&path).unwrap().is_none());
        let key = SigningKey::generate("log.example/aethyr").unwrap();
        let encoded = key.encoded().expose();
        fs::write(&path, format!("{encoded}\n")).unwrap();
        assert_eq!(read_key(&path).unwrap().unwrap().verifier(), key.verifier());
        let cut = &encoded[..encoded.len() - 4];
        fs::write(&path, cut).unwrap();
        let error = read_key(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && !error.contains(&cut[50..]), "{error}");
        assert_eq!(former_path(&path), dir.path().join("checkpoint.key.old"));
    }
}
