//! `verify`: verifies the history here and now, or compares it with checkpoints from elsewhere.
//!
//! The history is verified by the running service. Checkpoints are compared by it as well, or, if
//! no service is running, with the storage. Nothing is changed.

use std::{path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use super::{
    Error,
    client::{ServiceArgs, connect, list, number, print, text},
    logged, may_use_storage,
    proof::{KnownKey, LogIdentity},
    report, run,
};
use crate::{
    config::{Config, LoadedConfig},
    grpc::{ClientError, ClientSettings},
    progress::Progress,
    proof::VerifierKey,
};

mod checkpoints;
mod comparison;

use checkpoints::KnownCheckpoint;
pub(super) use comparison::roots;

const VERIFY_AGGREGATE: &str = "aethyr.eventstore.v1.EventStoreService/VerifyAggregate";
const VERIFY_ALL: &str = "aethyr.eventstore.v1.EventStoreService/VerifyAll";

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Aggregate id: verify the events of this aggregate only
    #[arg(conflicts_with_all = ["against", "key"])]
    aggregate: Option<String>,
    /// Compare the history with the checkpoints in these files instead; with the storage if no
    /// service is running
    #[arg(long, value_name = "FILE", num_args = 1..)]
    against: Vec<PathBuf>,
    /// Verifier key that has signed the checkpoints [default: those of the key file]. Can be
    /// repeated
    #[arg(long, value_name = "VKEY", value_parser = VerifierKey::parse, requires = "against")]
    key: Vec<VerifierKey>,
    #[command(flatten)]
    service: ServiceArgs,
}

/// Why the history is not verified.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    #[error("contradictions: {count}")]
    Contradictions { count: u64 },
    #[error("ImmuDB was not verified to the end: {why}")]
    ImmudbNotVerified { why: String },
    #[error("the service has sent no result")]
    NoResult,
    #[error("no checkpoint to compare with")]
    NoCheckpoint,
    #[error("there is no aggregate {id}")]
    NoAggregate { id: String },
    #[error("checkpoints that could not be compared: {count}")]
    NotCompared { count: usize },
    #[error(
        "the history differs: {path}:{line} has a checkpoint of {size} events, but the history has only \
         {events}{}",
        matching(*last_matching)
    )]
    Shorter { path: PathBuf, line: usize, size: u64, events: u64, last_matching: Option<u64> },
    #[error(
        "the history differs: {path}:{line} has a checkpoint of {size} events with the root {expected}, \
         but the root is {found}{}",
        matching(*last_matching)
    )]
    OtherRoot {
        path: PathBuf,
        line: usize,
        size: u64,
        /// In hexadecimal.
        expected: String,
        found: String,
        last_matching: Option<u64>,
    },
    #[error(
        "the history differs: it is not proven to continue the checkpoint of {size} events in \
         {path}:{line}{}",
        matching(*last_matching)
    )]
    NotContinued { path: PathBuf, line: usize, size: u64, last_matching: Option<u64> },
}

/// Returns what to say about the checkpoints that match.
fn matching(last: Option<u64>) -> String {
    match last {
        None => "; no smaller checkpoint was compared".to_owned(),
        Some(size) => format!("; the checkpoint of {size} events matches"),
    }
}

/// Runs the command.
pub(super) fn run_command(loaded: &LoadedConfig, args: VerifyArgs) -> ExitCode {
    let config = &loaded.config;
    if args.against.is_empty() {
        let VerifyArgs { service, aggregate, .. } = args;
        return run(async move { history(service.settings(config)?, aggregate).await });
    }
    match read_checkpoints(config, &args.against, args.key) {
        Ok(read) => compare(loaded, args.service, &read),
        Err(error) => report(&error),
    }
}

/// Has the service verify the history, or that of an aggregate, and prints the result.
///
/// # Errors
/// Returns an error if the service cannot be reached, if it rejects the call, or if something does
/// not match.
async fn history(service: ClientSettings, aggregate: Option<String>) -> Result<(), Error> {
    let client = connect(service).await?;
    let mut answers = match &aggregate {
        None => client.stream(VERIFY_ALL, &json!({})).await?,
        Some(id) => client.stream(VERIFY_AGGREGATE, &json!({"aggregate_id": id})).await?,
    };
    let mut bar: Option<Progress> = None;
    let mut result = None;
    while let Some(answer) = answers.next().await? {
        if let Some(progress) = answer.get("progress") {
            let bar =
                bar.get_or_insert_with(|| Progress::new("verifying", "events", 0, number(progress, "total")));
            bar.reached(number(progress, "events"));
        }
        if let Some(found) = answer.get("result") {
            result = Some(found.clone());
        }
    }
    drop(bar);
    let result = result.ok_or(VerifyError::NoResult)?;
    if let Some(id) = &aggregate
        && number(&result, "last_sequence") == 0
    {
        return Err(VerifyError::NoAggregate { id: id.clone() }.into());
    }
    lines(&result, aggregate.as_deref()).iter().try_for_each(|line| print(line))?;
    verdict(&result).map_err(Error::Verify)
}

/// Returns the result of a verification as lines of text.
fn lines(result: &Value, aggregate: Option<&str>) -> Vec<String> {
    let (events, in_immudb) = (number(result, "events"), number(result, "immudb_events"));
    let transaction = number(result, "immudb_transaction");
    let mut lines = vec![match aggregate {
        None => format!("verified events: {events}"),
        Some(id) => format!(
            "verified events of {id}: {events}, to sequence number {}",
            number(result, "last_sequence")
        ),
    }];
    lines.push(match transaction {
        0 => "ImmuDB: not verified".to_owned(),
        transaction => format!("ImmuDB: {in_immudb} events verified, against transaction {transaction}"),
    });
    // The root is in Base64, as in a checkpoint.
    lines.push(format!("tree: {} events, root {}", number(result, "tree_size"), text(result, "tree_root")));
    let contradictions = list(result, "contradictions");
    lines.extend(contradictions.iter().map(contradiction_line));
    let more = number(result, "contradiction_count").saturating_sub(contradictions.len() as u64);
    if more > 0 {
        lines.push(format!("not listed: {more} contradictions"));
    }
    lines
}

fn contradiction_line(contradiction: &Value) -> String {
    let mut about = Vec::new();
    if number(contradiction, "position") > 0 {
        about.push(format!("position {}", number(contradiction, "position")));
    }
    if !text(contradiction, "aggregate_id").is_empty() {
        about.push(text(contradiction, "aggregate_id").to_owned());
    }
    if number(contradiction, "sequence_number") > 0 {
        about.push(format!("sequence number {}", number(contradiction, "sequence_number")));
    }
    about.push(text(contradiction, "place").to_owned());
    let (expected, found) = (text(contradiction, "expected"), text(contradiction, "found"));
    format!("contradiction: {}: expected {expected}, found {found}", about.join(", "))
}

fn verdict(result: &Value) -> Result<(), VerifyError> {
    match (number(result, "contradiction_count"), text(result, "immudb_problem")) {
        (0, "") => Ok(()),
        (0, why) => Err(VerifyError::ImmudbNotVerified { why: why.to_owned() }),
        (count, _) => Err(VerifyError::Contradictions { count }),
    }
}

/// What was read from files with checkpoints.
#[derive(Debug, PartialEq, Eq)]
struct ReadCheckpoints {
    /// Those to compare with, the smallest first.
    known: Vec<KnownCheckpoint>,
    /// The number of those that could not be read, or that none of the keys has signed.
    failed: usize,
}

/// Reads the checkpoints in the files, and says which ones cannot be compared.
fn read_checkpoints(
    config: &Config,
    files: &[PathBuf],
    keys: Vec<VerifierKey>,
) -> Result<ReadCheckpoints, Error> {
    let own = LogIdentity::load(config);
    let keys = if keys.is_empty() { own?.keys } else { limited(keys, own.ok()) };
    let (mut known, mut failed) = (Vec::new(), 0_usize);
    for path in files {
        let read = checkpoints::read(path, &keys).map_err(|error| Error::of_file(path, error))?;
        failed = failed.saturating_add(read.failed);
        known.extend(read.known);
    }
    known.sort_by_key(|checkpoint| checkpoint.checkpoint.size());
    // A copy of a file adds nothing.
    known.dedup_by(|next, kept| next.checkpoint == kept.checkpoint);
    match (known.is_empty(), failed) {
        (true, 0) => Err(VerifyError::NoCheckpoint.into()),
        (true, count) => Err(VerifyError::NotCompared { count }.into()),
        (false, failed) => Ok(ReadCheckpoints { known, failed }),
    }
}

/// Returns the given keys. Those of the log itself count as long as their generations.
fn limited(keys: Vec<VerifierKey>, own: Option<LogIdentity>) -> Vec<KnownKey> {
    let own = own.map(|own| own.keys).unwrap_or_default();
    let agreed = |key: &VerifierKey| {
        let of_name = own.iter().find(|known| known.key.name() == key.name());
        of_name.map_or(u64::MAX, |known| known.agreed)
    };
    keys.into_iter().map(|key| KnownKey { agreed: agreed(&key), key }).collect()
}

/// Compares the history with the checkpoints: that of a running service, otherwise that of the
/// storage.
fn compare(loaded: &LoadedConfig, service: ServiceArgs, read: &ReadCheckpoints) -> ExitCode {
    let is_named = service.connection.address.is_some();
    let mut is_running = true;
    let code = run(async {
        match connect(service.settings(&loaded.config)?).await {
            Ok(client) => {
                comparison::with_service(&client, &read.known).await?;
                finish(read)
            }
            Err(Error::Client(ClientError::Unreachable { .. })) if !is_named => {
                is_running = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    });
    if is_running {
        return code;
    }
    if let Err(error) = may_use_storage(loaded) {
        return report(&Error::Usage(error));
    }
    logged(loaded, async {
        comparison::with_storage(&loaded.config, &read.known)?;
        finish(read)
    })
}

/// Says what was compared. All that could be compared matches.
fn finish(read: &ReadCheckpoints) -> Result<(), Error> {
    let sizes = [read.known.first(), read.known.last()].map(|known| known.map_or(0, KnownCheckpoint::size));
    let count = read.known.len();
    print(&format!("matching checkpoints: {count}, of {} to {} events", sizes[0], sizes[1]))?;
    match read.failed {
        0 => Ok(()),
        count => Err(VerifyError::NotCompared { count }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::SigningKey;

    #[test]
    fn a_result_says_what_was_verified_and_what_does_not_match() {
        let result = json!({
            "events": 7, "immudb_events": 5, "last_sequence": 7, "tree_size": 20, "tree_root": "AAAA",
            "immudb_transaction": 42, "contradiction_count": 3,
            "contradictions": [
                {"position": 9, "aggregate_id": "room-1", "sequence_number": 4, "place": "ImmuDB",
                 "expected": "ab", "found": "cd"},
                {"place": "checkpoint", "expected": "ef", "found": "01"},
            ],
        });
        let expected = [
            "verified events of room-1: 7, to sequence number 7",
            "ImmuDB: 5 events verified, against transaction 42",
            "tree: 20 events, root AAAA",
            "contradiction: position 9, room-1, sequence number 4, ImmuDB: expected ab, found cd",
            "contradiction: checkpoint: expected ef, found 01",
            "not listed: 1 contradictions",
        ];
        assert_eq!(lines(&result, Some("room-1")), expected);
        assert_eq!(verdict(&result).unwrap_err().to_string(), "contradictions: 3");
        let alone = json!({"events": 7, "tree_size": 7});
        let expected = ["verified events: 7", "ImmuDB: not verified", "tree: 7 events, root "];
        assert_eq!(lines(&alone, None), expected);
        assert!(verdict(&alone).is_ok());
        let problem = json!({"immudb_problem": "it is not reachable"});
        let error = verdict(&problem).unwrap_err().to_string();
        assert_eq!(error, "ImmuDB was not verified to the end: it is not reachable");
    }

    #[test]
    fn a_given_key_of_the_log_counts_as_long_as_its_generation() {
        let [own, other] = ["own.example", "other.example"].map(|name| SigningKey::generate(name).unwrap());
        let known = KnownKey { key: own.verifier().clone(), agreed: 50 };
        let identity = LogIdentity { present: known.key.clone(), keys: vec![known.clone()] };
        let given = [own, other].map(|key| key.verifier().clone());
        let expected = [known, KnownKey { key: given[1].clone(), agreed: u64::MAX }];
        assert_eq!(limited(given.to_vec(), Some(identity)), expected);
        let without = limited(given.to_vec(), None);
        assert!(without.iter().all(|known| known.agreed == u64::MAX));
    }
}
