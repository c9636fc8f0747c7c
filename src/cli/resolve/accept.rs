//! Accepts the findings: the log goes on from ImmuDB's present state, and an event records what was
//! accepted, and why.

use std::{collections::BTreeMap, path::Path};

use serde_json::json;
use tracing::{info, warn};

use super::{ImmudbState, ResolveError, trusted_file};
use crate::{
    cli::{Error, verify},
    config::Config,
    durable_file::beside_log,
    event::{
        AggregateId, AppendBounds, Content, ContentDigest, EventId, NameError, NewEvent, Position,
        SequenceNumber, Timestamp,
        record::{self, EventNumbers, ReplicationMark},
    },
    immudb::verify::TrustedState,
    index::{Index, IndexError},
    proof::Checkpoint,
    replication::{
        findings::{self, FindingKind, Findings, StoredFinding},
        restore::RestoreMarker,
    },
    server::settings,
    storage::{Storage, StorageError},
    transparency::generations::{self, Generation},
};

const AGGREGATE: &str = "aethyr:audit";
/// Tells the service's own aggregate from one that a client has made before such ids were reserved.
const AGGREGATE_TYPE: &str = "AethyrAudit";
const EVENT_TYPE: &str = "AuditFindingsAccepted";
/// The number of findings that the event names. More would make it too large to replicate.
const NAMED_MAX: usize = 500;

/// Takes ImmuDB's present state as the trusted one, and marks the findings as accepted. What was
/// changed in ImmuDB stays changed; only what it lacks behind its head is sent again. Without
/// ImmuDB in the configuration, the findings are of anchors or of the local log.
///
/// # Errors
/// Returns an error if ImmuDB cannot be contacted, if `numbers` are not exactly the open findings,
/// or if the storage cannot be used.
pub(in crate::cli) async fn accept_findings(
    config: Config,
    numbers: Vec<u64>,
    because: String,
) -> Result<(), Error> {
    let mut storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let log_path = &config.event_sourcing.log_path;
    let path = beside_log(log_path, findings::EXTENSION);
    let mut findings = Findings::open(&path).map_err(|error| Error::of_file(&path, error))?;
    let known = storage.index.complete().forwarded;
    check(&findings, &numbers, known.tampered)?;
    // Without ImmuDB, there may be findings of anchors. What ImmuDB had is not accepted unseen.
    let immudb = if config.immudb.is_none() && !known.tampered {
        None
    } else {
        Some(ImmudbState::present(&config).await?)
    };
    let head = match &immudb {
        Some(immudb) => immudb.head().await?.map(|head| head.position),
        None => None,
    };
    let lacks_events = head.is_some_and(|head| head > storage.log.tip().position);
    let state = immudb.as_ref().map(|immudb| immudb.chain.state());

    begin_generation_after(&findings, &numbers, (&storage, log_path), &because)?;
    // The mark ends the state, so it comes after the file that the next start continues from.
    if let Some(immudb) = immudb {
        let file = trusted_file(&config, &storage);
        file.replace(&immudb.into_saved()).map_err(|error| Error::of_file(file.path(), error))?;
    }
    let at = Timestamp::now();
    let mut group = storage.log.begin()?;
    if lacks_events || RestoreMarker::new(log_path).exists() {
        warn!("the local log lacks events of ImmuDB, so no event records that the findings were accepted");
    } else {
        let event = audit_event(&storage, &findings, &because, state)?;
        group.append(&[event])?;
    }
    if let Some(state) = state {
        group.mark(&record::encode_mark(accepted_mark(known, head, state)));
    }
    storage.log.write(group)?;
    storage.log.close()?;
    findings.accept(&numbers, &because, at);
    findings.save().map_err(|error| Error::of_file(&path, error))?;
    let findings = numbers.len();
    match state {
        Some(TrustedState { tx, alh }) => info!(
            findings,
            transaction = tx.0,
            hash = hex::encode(alh),
            "the findings are accepted; the next start continues from this transaction"
        ),
        None => info!(findings, "the findings are accepted"),
    }
    Ok(())
}

/// Begins a generation of checkpoints if an anchor's finding is accepted: the anchor has a history
/// that this one does not continue, so the two must not have the same origin. Both agree at least
/// up to the largest kept checkpoint that the log continues.
fn begin_generation_after(
    findings: &Findings,
    accepted: &[u64],
    (storage, log_path): (&Storage, &Path),
    because: &str,
) -> Result<(), Error> {
    let is_of_anchor = |found: &StoredFinding| {
        accepted.contains(&found.number) && found.finding.kind == FindingKind::AnchorDiffers
    };
    if !findings.list().iter().any(is_of_anchor) {
        return Ok(());
    }
    let of_file = |error| Error::of_file(&generations::path(log_path), error);
    let kept = generations::checkpoints(log_path).map_err(of_file)?;
    let sizes = kept.iter().map(Checkpoint::size).collect();
    let roots = verify::roots(&storage.history(), storage.log.tip(), sizes)?;
    let agrees = |kept: &&Checkpoint| roots.get(&kept.size()) == Some(kept.root());
    let agreed = kept.iter().filter(agrees).map(Checkpoint::size).max().unwrap_or(0);
    let generation = Generation::by_operator(Position(agreed), "resolve --accept-findings", because);
    generations::begin_against_anchor(log_path, generation).map_err(of_file)
}

/// Checks that exactly the open findings are named. If their file was deleted, there are none.
fn check(findings: &Findings, numbers: &[u64], tampered: bool) -> Result<(), ResolveError> {
    let open: Vec<u64> = findings.open_numbers().collect();
    if let Some(number) = numbers.iter().find(|number| !open.contains(number)) {
        return Err(ResolveError::NoSuchFinding { number: *number, open });
    }
    if open.iter().any(|number| !numbers.contains(number)) {
        return Err(ResolveError::NotAllNamed { open });
    }
    // Those that were only counted have no numbers.
    if findings.open_count() == 0 && !tampered {
        return Err(ResolveError::NothingFound);
    }
    Ok(())
}

/// Returns the mark from which the next start goes on. If ImmuDB's head is behind what was
/// replicated, the events in between are pending again: with them, the head would contradict the
/// log once more.
fn accepted_mark(known: ReplicationMark, head: Option<Position>, state: TrustedState) -> ReplicationMark {
    let behind = head.filter(|head| *head < known.position);
    let known = behind.map_or(known, |position| ReplicationMark { position, snapshots: 0, ..known });
    ReplicationMark { immudb_tx: state.tx.0, immudb_hash: Some(state.alh), tampered: false, ..known }
}

/// Returns the record of the event that says what was accepted.
fn audit_event(
    storage: &Storage,
    findings: &Findings,
    because: &str,
    state: Option<TrustedState>,
) -> Result<bytes::Bytes, Error> {
    let (aggregate_id, sequence) = next_in_audit(&storage.index)?;
    let open: Vec<_> = findings.list().iter().filter(|found| found.accepted.is_none()).collect();
    let named = open.iter().take(NAMED_MAX).map(|found| {
        let finding = &found.finding;
        json!({
            "number": found.number,
            "kind": finding.kind,
            "transaction": finding.transaction,
            "key": finding.key,
            "expected": finding.expected,
            "found": finding.found,
        })
    });
    let text = json!({
        "because": because,
        "findings": named.collect::<Vec<_>>(),
        "findings_count": findings.open_count(),
        "transaction": state.map(|state| state.tx.0),
        "hash": state.map(|state| hex::encode(state.alh)),
    });
    let event = NewEvent {
        id: EventId::random(),
        aggregate_id,
        aggregate_type: AGGREGATE_TYPE.into(),
        event_type: EVENT_TYPE.into(),
        content: Content::Json(text.to_string()),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: BTreeMap::new(),
        occurred_at: None,
    };
    let position = storage.log.tip().position.next();
    let numbers = EventNumbers {
        sequence,
        position,
        // Recorded times never decrease.
        recorded_at: Timestamp::now().max(storage.index.complete().recorded_at),
        append: AppendBounds { first: position, last: position },
    };
    // The operator runs this command on the stopped service: there is no identity.
    Ok(record::encode(&event, numbers, ContentDigest::of(&event), ""))
}

/// Returns the aggregate of the audit events, and the number of the next one. An aggregate of a
/// client that has the id already is left alone.
fn next_in_audit(index: &Index) -> Result<(AggregateId, SequenceNumber), Error> {
    let mut id = AGGREGATE.to_owned();
    for number in 2u64.. {
        let aggregate = AggregateId::new(&id).map_err(not_an_id)?;
        let head = index.head(&aggregate).map_err(of_index)?;
        match head {
            None => return Ok((aggregate, SequenceNumber(1))),
            Some(head) if &*head.aggregate_type == AGGREGATE_TYPE => {
                return Ok((aggregate, SequenceNumber(head.last.0.saturating_add(1))));
            }
            Some(_) => id = format!("{AGGREGATE}-{number}"),
        }
    }
    Err(Error::Io(std::io::Error::other("no free id for the audit events")))
}

fn of_index(error: IndexError) -> Error {
    StorageError::from(error).into()
}

fn not_an_id(error: NameError) -> Error {
    Error::Io(std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        immudb::TxId,
        replication::findings::{Finding, FindingKind},
    };

    #[test]
    fn what_immudb_lacks_behind_its_head_is_pending_again() {
        let hash = Some([1; 32]);
        let position = Position(7);
        let known =
            ReplicationMark { position, snapshots: 2, immudb_tx: 9, immudb_hash: hash, tampered: true };
        let state = TrustedState { tx: TxId(8), alh: [2; 32] };
        let mark = |head: Option<u64>| accepted_mark(known, head.map(Position), state);
        let present = ReplicationMark { immudb_tx: 8, immudb_hash: Some([2; 32]), tampered: false, ..known };
        for head in [None, Some(7), Some(8)] {
            assert_eq!(mark(head), present, "{head:?}");
        }
        for head in [0, 6] {
            let behind = ReplicationMark { position: Position(head), snapshots: 0, ..present };
            assert_eq!(mark(Some(head)), behind);
        }
    }

    #[test]
    fn exactly_the_open_findings_have_to_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut findings = Findings::open(&dir.path().join("log.findings")).unwrap();
        let error = |findings: &Findings, numbers: &[u64], tampered| match check(findings, numbers, tampered)
        {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(error(&findings, &[], false), "nothing to accept: no findings are open");
        assert_eq!(error(&findings, &[], true), "", "their file was deleted");
        for tx in 1..=3 {
            let finding = Finding::new(FindingKind::OtherHash, "a", "b").in_transaction(tx);
            findings.record(finding, Timestamp::default());
        }
        findings.accept(&[2], "known", Timestamp::default());
        assert_eq!(error(&findings, &[1], true), "all open findings must be named; open: 1 3");
        assert_eq!(error(&findings, &[], true), "all open findings must be named; open: 1 3");
        assert_eq!(error(&findings, &[1, 2, 3], true), "2: there is no such open finding; open: 1 3");
        assert_eq!(error(&findings, &[3, 1], false), "");
    }

    #[test]
    fn an_aggregate_of_a_client_is_left_alone() {
        use crate::sequencer::{
            Origin,
            tests::{in_folder, one_event, start},
        };
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let next = || {
            let (id, number) = next_in_audit(&running.history.index).unwrap();
            (id.as_str().to_owned(), number.0)
        };
        let append = |id: &str, kind: &str| {
            let mut append = one_event(id);
            append.events[0].0.aggregate_type = kind.into();
            runtime.block_on(running.sequencer.append(append, Origin::default())).unwrap();
        };
        assert_eq!(next(), ("aethyr:audit".to_owned(), 1));
        append("aethyr:audit", "Guild");
        assert_eq!(next(), ("aethyr:audit-2".to_owned(), 1));
        append("aethyr:audit-2", "Guild");
        append("aethyr:audit-3", AGGREGATE_TYPE);
        assert_eq!(next(), ("aethyr:audit-3".to_owned(), 2));
        append("aethyr:audit-3", AGGREGATE_TYPE);
        assert_eq!(next(), ("aethyr:audit-3".to_owned(), 3));
    }
}
