//! Tells the auditor whether a checkpoint in ImmuDB is one of this history.

use super::{Gate, Transparency, generations::generation_of};
use crate::{
    merkle::Hash,
    proof::{Checkpoint, SignedNote},
    replication::audit::CheckpointJudge,
};

impl CheckpointJudge for Transparency {
    fn contradiction(&self, size: u64, value: &[u8]) -> Option<(String, String)> {
        let Self(inner) = self;
        let (keys, view) = (inner.keys.as_ref().ok()?, inner.tree.view()?);
        let generations = {
            let signing = inner.signing();
            // A generation may begin yet, because the log is a copy that lacks events.
            if matches!(signing.gate, Gate::NotCompared) || signing.generations.copied {
                return None;
            }
            signing.generations.clone()
        };
        let expected = || format!("a checkpoint of {size} events");
        let note = SignedNote::parse(value).ok();
        // The signature does not matter: the tree alone says whether it is right.
        let checkpoint = note.and_then(|note| Checkpoint::parse(note.unverified_text()).ok());
        let Some(checkpoint) = checkpoint else { return Some((expected(), "another value".to_owned())) };
        if checkpoint.size() != size {
            return Some((expected(), format!("one of {} events", checkpoint.size())));
        }
        // One of another log, or of a history that an operator has given up.
        let generation = generation_of(keys.name(), checkpoint.origin())?;
        if size > generations.limit(generation) || size > view.size() {
            return None;
        }
        let root = view.root_at(size, &inner.history).ok()?;
        let text = |root: &Hash| format!("{size} events with the root {}", hex::encode(root));
        (root != *checkpoint.root()).then(|| (text(&root), text(checkpoint.root())))
    }
}
