//! Compares checkpoints with the tree over the events: that of a running service, which has to
//! prove that it continues them, or that of the log in the storage, which is read from the start.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    super::{
        Error,
        client::{list, number, text},
    },
    VerifyError,
    checkpoints::KnownCheckpoint,
};
use crate::{
    config::Config,
    event::Position,
    grpc::JsonClient,
    history::{History, HistoryError},
    log::{CursorItem, Tip},
    progress::Progress,
    proof::{EMPTY_ROOT, Hash, RightEdge, consistency, leaf_hash},
    server::settings,
    storage::Storage,
};

const GET_CONSISTENCY: &str = "aethyr.eventstore.v1.EventStoreService/GetConsistency";
const STATS: &str = "aethyr.eventstore.v1.EventStoreService/Stats";

/// How many events are read between two reports of the progress.
const REPORT_EVERY: u64 = 4096;

/// What the history has in the place of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The tree of this size has this root.
    Root(Hash),
    /// The history has only this number of events.
    Events(u64),
    /// The root is the same, but the proof that the history continues it is wrong.
    NoProof,
}

/// Compares the history of a running service with the checkpoints, of which the smallest is first.
///
/// # Errors
/// Returns an error about the first checkpoint that differs, or if the service cannot answer.
pub(super) async fn with_service(client: &JsonClient, known: &[KnownCheckpoint]) -> Result<(), Error> {
    let mut progress = Progress::new("comparing", "checkpoints", 0, known.len() as u64);
    let mut last_matching = None;
    for (done, checkpoint) in (1..).zip(known) {
        let found = ask(client, checkpoint).await?;
        last_matching = Some(check(checkpoint, found, last_matching)?);
        progress.reached(done);
    }
    Ok(())
}

/// Asks for the root at the size of a checkpoint, and for the proof that the newest checkpoint of
/// the service continues it.
async fn ask(client: &JsonClient, known: &KnownCheckpoint) -> Result<Found, Error> {
    if known.size() == 0 {
        return Ok(Found::Root(EMPTY_ROOT));
    }
    match client.call(GET_CONSISTENCY, &json!({"from_size": known.size()})).await {
        Ok(answer) => Ok(continued(known, &answer)),
        Err(error) if error.reason() == "NO_EVENT" => {
            let stats = client.call(STATS, &json!({})).await?;
            Ok(Found::Events(number(&stats, "last_position")))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns what an answer of the service proves.
fn continued(known: &KnownCheckpoint, answer: &Value) -> Found {
    let Some(from_root) = hash(text(answer, "from_root")) else { return Found::NoProof };
    if from_root != *known.checkpoint.root() {
        return Found::Root(from_root);
    }
    let hashes = list(answer, "hashes").iter().map(|proof| proof.as_str().and_then(hash));
    let hashes: Option<Vec<Hash>> = hashes.collect();
    let (Some(hashes), Some(to_root)) = (hashes, hash(text(answer, "to_root"))) else {
        return Found::NoProof;
    };
    let to_size = number(answer, "to_size");
    match consistency::verify(known.size(), &from_root, to_size, &to_root, &hashes) {
        Ok(()) => Found::Root(from_root),
        Err(_) => Found::NoProof,
    }
}

fn hash(base64: &str) -> Option<Hash> {
    STANDARD.decode(base64).ok()?.try_into().ok()
}

/// Compares the history of the storage with the checkpoints, of which the smallest is first.
///
/// # Errors
/// Returns an error about the first checkpoint that differs, or if the storage cannot be used.
pub(super) fn with_storage(config: &Config, known: &[KnownCheckpoint]) -> Result<(), Error> {
    let storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let tip = storage.log.tip();
    let roots = roots(&storage.history(), tip, known.iter().map(KnownCheckpoint::size).collect())?;
    let mut last_matching = None;
    for checkpoint in known {
        let root = roots.get(&checkpoint.size()).copied();
        let found = root.map_or(Found::Events(tip.position.0), Found::Root);
        last_matching = Some(check(checkpoint, found, last_matching)?);
    }
    Ok(())
}

/// Returns the roots of the trees of these sizes, from the chain hashes in the log. The log has no
/// tree of a size that is missing in the result.
pub(in crate::cli) fn roots(
    history: &History,
    tip: Tip,
    sizes: BTreeSet<u64>,
) -> Result<BTreeMap<u64, Hash>, HistoryError> {
    let last = sizes.last().copied().unwrap_or_default().min(tip.position.0);
    let mut roots = BTreeMap::new();
    if sizes.contains(&0) {
        roots.insert(0, EMPTY_ROOT);
    }
    if last == 0 {
        return Ok(roots);
    }
    let mut edge = RightEdge::new();
    let mut progress = Progress::new("reading the log", "events", 0, last);
    let mut records = history.records_before(Position(1))?;
    while edge.size() < last {
        let expected = Position(edge.size()).next();
        let found = match records.find(tip.end)? {
            None => return Err(HistoryError::Position(expected)),
            Some(CursorItem::Skipped(_)) => continue,
            Some(CursorItem::Record(found)) if found.position == expected => found,
            Some(CursorItem::Record(_)) => return Err(HistoryError::Position(expected)),
        };
        edge.push(leaf_hash(&found.hash.0));
        records.take(&found);
        if sizes.contains(&edge.size()) {
            roots.insert(edge.size(), edge.root());
        }
        if edge.size().is_multiple_of(REPORT_EVERY) {
            progress.reached(edge.size());
        }
    }
    Ok(roots)
}

/// Returns the size of the checkpoint if the history has it.
fn check(known: &KnownCheckpoint, found: Found, last_matching: Option<u64>) -> Result<u64, VerifyError> {
    let (path, line, size) = (known.path.clone(), known.line, known.size());
    let expected = *known.checkpoint.root();
    match found {
        Found::Root(root) if root == expected => Ok(size),
        Found::Root(root) => Err(VerifyError::OtherRoot {
            path,
            line,
            size,
            expected: hex::encode(expected),
            found: hex::encode(root),
            last_matching,
        }),
        Found::Events(events) => Err(VerifyError::Shorter { path, line, size, events, last_matching }),
        Found::NoProof => Err(VerifyError::NotContinued { path, line, size, last_matching }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{Checkpoint, root};

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
    }

    fn known(size: u64, tree: Hash) -> KnownCheckpoint {
        let checkpoint = Checkpoint::new("log.example/aethyr", size, tree, Vec::new()).unwrap();
        KnownCheckpoint { path: "anchor".into(), line: 7, checkpoint }
    }

    /// Returns the answer of a service with these leaves.
    fn answer(leaves: &[Hash], from_size: u64) -> Value {
        let hashes = consistency::prove(leaves, from_size).unwrap();
        json!({
            "hashes": hashes.iter().map(|hash| STANDARD.encode(hash)).collect::<Vec<_>>(),
            "from_root": STANDARD.encode(root(&leaves[..from_size as usize])),
            "to_size": leaves.len(),
            "to_root": STANDARD.encode(root(leaves)),
        })
    }

    #[test]
    fn a_history_that_continues_a_checkpoint_matches_it() {
        let leaves = leaves(20);
        for size in 1..=20 {
            let tree = root(&leaves[..size as usize]);
            let checkpoint = known(size, tree);
            let found = continued(&checkpoint, &answer(&leaves, size));
            assert_eq!(found, Found::Root(tree), "{size}");
            assert_eq!(check(&checkpoint, found, None).unwrap(), size);
        }
    }

    #[test]
    fn another_history_does_not_match() {
        let (ours, mut theirs) = (leaves(20), leaves(20));
        theirs[6] = [1; 32];
        for size in 1..=20 {
            let checkpoint = known(size, root(&ours[..size as usize]));
            let found = continued(&checkpoint, &answer(&theirs, size));
            assert_eq!(check(&checkpoint, found, None).is_ok(), size < 7, "{size}");
            // A service that repeats the root of the checkpoint has no proof.
            let mut lie = answer(&theirs, size);
            lie["from_root"] = STANDARD.encode(checkpoint.checkpoint.root()).into();
            let expected = if size < 7 { Found::Root(*checkpoint.checkpoint.root()) } else { Found::NoProof };
            assert_eq!(continued(&checkpoint, &lie), expected, "{size}");
        }
        for missing in ["from_root", "to_root", "hashes", "to_size"] {
            let mut cut = answer(&ours, 7);
            cut.as_object_mut().unwrap().remove(missing);
            assert_eq!(continued(&known(7, root(&ours[..7])), &cut), Found::NoProof, "{missing}");
        }
    }

    #[test]
    fn the_first_size_that_differs_is_named() {
        let checkpoint = known(5, [0xab; 32]);
        let error = |found, last| check(&checkpoint, found, last).unwrap_err().to_string();
        let [expected, other] = [[0xab; 32], [0xcd; 32]].map(hex::encode);
        assert_eq!(
            error(Found::Root([0xcd; 32]), Some(4)),
            format!(
                "the history differs: anchor:7 has a checkpoint of 5 events with the root {expected}, but \
                 the root is {other}; the checkpoint of 4 events matches"
            )
        );
        assert_eq!(
            error(Found::Events(3), None),
            "the history differs: anchor:7 has a checkpoint of 5 events, but the history has only 3; no \
             smaller checkpoint was compared"
        );
        assert_eq!(
            error(Found::NoProof, None),
            "the history differs: it is not proven to continue the checkpoint of 5 events in anchor:7; no \
             smaller checkpoint was compared"
        );
    }
}
