//! `verify-proof`: verifies a proof file. Needs no configuration, no service and no network.
//!
//! What is printed follows from the file and the given keys alone, and each line says who vouches
//! for it.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Error, client::print, report};
use crate::{
    event::{ChainHash, Content, RecordedEvent, Timestamp, time},
    immudb::verify::{PublicKey, PublicKeyError},
    proof::{PROOF_BYTES_MAX, VerifierKey},
    proof_file::{CertifiedState, ProofFile, ProofFileError, ProofFileRejection, VerificationKeys, Verified},
};

/// The name of standard input on the command line.
const STANDARD_INPUT: &str = "-";

#[derive(Debug, clap::Args)]
pub(super) struct VerifyProofArgs {
    /// Proof file; - for standard input
    file: PathBuf,
    /// Verifier key of the log, from a place that you trust (`proof key` prints it)
    #[arg(long, value_name = "VKEY", value_parser = VerifierKey::parse)]
    key: VerifierKey,
    /// Verifier key of a witness that must have cosigned the checkpoint. Can be repeated
    #[arg(long, value_name = "VKEY", value_parser = VerifierKey::parse)]
    witness: Vec<VerifierKey>,
    /// File with the public key of ImmuDB, which must have signed that it has the checkpoint
    #[arg(long, value_name = "PEM")]
    immudb_key: Option<PathBuf>,
    /// Chain hash of the event, 64 hexadecimal digits; required for a proof without the event
    #[arg(long, value_name = "HEX", value_parser = chain_hash)]
    hash: Option<ChainHash>,
}

/// Why a proof is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyProofError {
    #[error("{path}: {source}")]
    Malformed { path: PathBuf, source: ProofFileError },
    #[error("{path}: refused: {source}")]
    Rejected { path: PathBuf, source: Box<ProofFileRejection> },
    #[error("{path}: {source}")]
    PublicKey { path: PathBuf, source: PublicKeyError },
}

fn chain_hash(text: &str) -> Result<ChainHash, &'static str> {
    ChainHash::from_hex(text).ok_or("not 64 hexadecimal digits")
}

/// Verifies the proof, and prints what it says.
pub(super) fn run_command(args: &VerifyProofArgs) -> ExitCode {
    let printed =
        verify(args).and_then(|verified| lines(&verified, args).iter().try_for_each(|line| print(line)));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn verify(args: &VerifyProofArgs) -> Result<Verified, Error> {
    let path = || args.file.clone();
    let file = ProofFile::parse(&read(&args.file)?)
        .map_err(|source| VerifyProofError::Malformed { path: path(), source })?;
    let immudb = args.immudb_key.as_deref().map(public_key).transpose()?;
    let keys = VerificationKeys { log: &args.key, witnesses: &args.witness, immudb: immudb.as_ref() };
    let verified = file.verify(&keys, args.hash).map_err(Box::new);
    Ok(verified.map_err(|source| VerifyProofError::Rejected { path: path(), source })?)
}

/// Reads at most one byte more than a proof file can have.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let limit = u64::try_from(PROOF_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = if path == Path::new(STANDARD_INPUT) {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Error::of_file(path, error))?;
    Ok(bytes)
}

fn public_key(path: &Path) -> Result<PublicKey, Error> {
    let text = fs::read_to_string(path).map_err(|error| Error::of_file(path, error))?;
    let invalid = |source| VerifyProofError::PublicKey { path: path.to_owned(), source };
    Ok(PublicKey::from_pem(&text).map_err(invalid)?)
}

/// Returns what a verified proof says.
fn lines(verified: &Verified, args: &VerifyProofArgs) -> Vec<String> {
    let mut lines = verified.event.as_ref().map(event_lines).unwrap_or_default();
    let checkpoint = &verified.checkpoint;
    lines.push(format!("position: {}", verified.position));
    lines.push(format!("chain hash: {}", verified.chain_hash));
    lines.push(format!(
        "checkpoint: {}, {} events, root {}",
        checkpoint.origin(),
        checkpoint.size(),
        STANDARD.encode(checkpoint.root())
    ));
    lines.push(format!("signed by: {} (key {})", args.key.name(), args.key.id()));
    let mut vouchers = Vec::new();
    for (witness, at) in args.witness.iter().zip(&verified.cosigned_at) {
        let at = seconds(i64::try_from(*at).unwrap_or(i64::MAX));
        lines.push(format!("cosigned by: {} (key {}), {at}", witness.name(), witness.id()));
        vouchers.push(format!("unchanged since: {at}, by the word of {}", witness.name()));
    }
    if let Some(state) = &verified.immudb {
        lines.push(immudb_line(state));
        if state.is_signed {
            let at = seconds(state.committed_at);
            vouchers.push(format!("unchanged since: {at}, by the word of ImmuDB (--immudb-key)"));
        }
    }
    if vouchers.is_empty() {
        vouchers.push("unchanged since: unknown, only the log vouches for the event".to_owned());
    }
    lines.extend(vouchers);
    lines
}

fn event_lines(recorded: &RecordedEvent) -> Vec<String> {
    let event = &recorded.event;
    let mut lines = vec![
        format!("event: {}", event.id),
        format!("aggregate: {}, sequence number {}", event.aggregate_id, recorded.sequence),
        format!("type: {}", event.event_type),
        format!("recorded: {}, by the clock of the log", time::format(recorded.recorded_at)),
    ];
    lines.extend(match &event.content {
        Content::Absent => None,
        // As `events` prints it.
        Content::Json(data) if data.contains("password") => {
            Some("data: (contains a password, not shown)".to_owned())
        }
        Content::Json(data) => Some(format!("data: {data}")),
        Content::Binary(bytes) => Some(format!("data: (binary, {} bytes)", bytes.len())),
    });
    lines
}

fn immudb_line(state: &CertifiedState) -> String {
    let CertifiedState { database, state, is_signed, .. } = state;
    let (tx, alh) = (state.tx, hex::encode(state.alh));
    let checked = if *is_signed { "signature verified" } else { "not verified (no --immudb-key)" };
    format!("in ImmuDB: database {database}, transaction {tx}, state {alh}, {checked}")
}

/// Formats a time in seconds since 1970.
fn seconds(at: i64) -> String {
    Timestamp::new(at, 0).map_or_else(|| format!("second {at}"), time::format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Position, record},
        immudb::{TxId, verify::TrustedState},
        proof::{Checkpoint, EMPTY_ROOT},
    };

    /// See `src/proof_file/tests.rs`.
    const KNOWN: &[u8] = include_bytes!("../../fuzz/corpus/proof_files/complete");
    const LOG: &str = "log.example/aethyr+887ecb9c+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
    const WITNESS: &str = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";

    fn args(file: &Path, witnesses: &[&str]) -> VerifyProofArgs {
        VerifyProofArgs {
            file: file.to_owned(),
            key: VerifierKey::parse(LOG).unwrap(),
            witness: witnesses.iter().map(|key| VerifierKey::parse(key).unwrap()).collect(),
            immudb_key: None,
            hash: None,
        }
    }

    #[test]
    fn a_proof_says_what_it_proves_and_by_whose_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sword.tlog-proof");
        fs::write(&path, KNOWN).unwrap();
        let with_witness = args(&path, &[WITNESS]);
        let printed = lines(&verify(&with_witness).unwrap(), &with_witness);
        let expected = [
            "event: 00000000-0000-4000-8000-000000000004",
            "aggregate: room-1, sequence number 4",
            "type: SwordFound",
            "recorded: 2023-11-14T22:13:24Z, by the clock of the log",
            "data: {\"by\":\"player-4\"}",
            "position: 4",
            "chain hash: 16dd498d50caa12c8b2467ab5fe323e8c4290d7cedefca491edbc17dddcc5b0b",
            "checkpoint: log.example/aethyr, 5 events, root V+IUhFxwrCYVVO/4YEYp9YUb8AmYwhoHD1raire+ceU=",
            "signed by: log.example/aethyr (key 887ecb9c)",
            "cosigned by: witness.example/w1 (key 20324abe), 2023-11-14T22:15:00Z",
            "in ImmuDB: database aethyr, transaction 42, state \
             197672fd1d8398cc640051d547220800993dd2b06f9a2ea6064e69fc578bc39b, not verified (no --immudb-key)",
            "unchanged since: 2023-11-14T22:15:00Z, by the word of witness.example/w1",
        ];
        assert_eq!(printed, expected);
        let alone = args(&path, &[]);
        let printed = lines(&verify(&alone).unwrap(), &alone);
        let last = printed.last().map(String::as_str);
        assert_eq!(last, Some("unchanged since: unknown, only the log vouches for the event"));
    }

    #[test]
    fn a_refused_proof_is_named_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sword.tlog-proof");
        let shown = path.display();
        let refusal = |contents: &[u8]| {
            fs::write(&path, contents).unwrap();
            verify(&args(&path, &[])).unwrap_err().to_string()
        };
        assert_eq!(refusal(b""), format!("{shown}: the proof has no checkpoint below a blank line"));
        let changed = String::from_utf8(KNOWN.to_vec()).unwrap().replace("index 3", "index 4");
        let expected = format!("{shown}: refused: the proof has 3 hashes, which is not the number for these");
        assert_eq!(refusal(changed.as_bytes()), format!("{expected} sizes"));
        fs::remove_file(&path).unwrap();
        assert!(matches!(verify(&args(&path, &[])), Err(Error::File { .. })));
    }

    #[test]
    fn a_file_may_be_too_long_but_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        File::create(&path).unwrap().set_len(PROOF_BYTES_MAX as u64 + 1000).unwrap();
        assert_eq!(read(&path).unwrap().len(), PROOF_BYTES_MAX + 1);
    }

    #[test]
    fn a_signed_state_has_a_time_and_data_with_a_password_is_not_shown() {
        let state = CertifiedState {
            database: "aethyr".to_owned(),
            state: TrustedState { tx: TxId(7), alh: [0xab; 32] },
            committed_at: 60,
            is_signed: true,
        };
        let mut event = record::decode(record_of_known(), ChainHash::START).unwrap();
        event.event.content = Content::Json("{\"password\":\"x\"}".to_owned());
        let verified = Verified {
            event: Some(event),
            position: Position(1),
            chain_hash: ChainHash::START,
            checkpoint: Checkpoint::new("log.example/aethyr", 1, EMPTY_ROOT, Vec::new()).unwrap(),
            cosigned_at: Vec::new(),
            immudb: Some(state),
        };
        let printed = lines(&verified, &args(Path::new("file"), &[]));
        assert!(printed.contains(&"data: (contains a password, not shown)".to_owned()), "{printed:?}");
        let last = printed.last().map(String::as_str);
        assert_eq!(last, Some("unchanged since: 1970-01-01T00:01:00Z, by the word of ImmuDB (--immudb-key)"));
        assert_eq!(seconds(i64::MAX), "second 9223372036854775807");
    }

    fn record_of_known() -> bytes::Bytes {
        ProofFile::parse(KNOWN).unwrap().record.unwrap()
    }
}
