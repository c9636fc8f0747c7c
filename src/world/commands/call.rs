//! Distinguishes a call of several commands from another call with the same command ids.
//!
//! A command that led to events is found by the ids of those events. A command that changed nothing
//! leaves no events, but the events of the other commands in its call record which commands the
//! call had.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    event::RecordedEvent,
    world::rules::command::{CALL_DIGEST, Command},
};

/// The metadata key of a digest of the command ids alone, which is all that older services wrote.
/// [`CALL_DIGEST`] is that of the ids and of what the commands do.
const IDS: &str = "call";

/// Identifies a call by its commands. Empty if there is only one command, because its own id
/// identifies it.
#[derive(Debug, Default)]
pub struct CallDigest {
    ids: String,
    commands: String,
}

/// How a call relates to the events that were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallMatch {
    /// These commands were not executed as one call.
    New,
    /// The call was executed as a whole.
    Executed,
    /// A call with the same command ids was executed, but one of its commands was different.
    Another,
}

impl CallDigest {
    /// Returns the digests of a call. Empty for fewer than two commands.
    pub fn of(commands: &[Command]) -> Self {
        if commands.len() < 2 {
            return Self::default();
        }
        let (mut ids, mut contents) = (Sha256::new(), Sha256::new());
        for command in commands {
            for digest in [&mut ids, &mut contents] {
                digest.update((command.id.len() as u64).to_le_bytes());
                digest.update(&command.id);
            }
            contents.update(command.digest());
        }
        let text = |digest: Sha256| hex::encode(digest.finalize()).chars().take(32).collect();
        Self { ids: text(ids), commands: text(contents) }
    }

    /// Adds the digests to the metadata of an event of the call.
    pub fn mark(&self, metadata: &mut BTreeMap<String, String>) {
        if !self.ids.is_empty() {
            metadata.insert(IDS.to_owned(), self.ids.clone());
            metadata.insert(CALL_DIGEST.to_owned(), self.commands.clone());
        }
    }

    /// Compares the call with `found`, the first events of its commands.
    pub fn was<'f>(&self, found: impl Iterator<Item = &'f RecordedEvent>) -> CallMatch {
        let of_these_ids =
            found.map(|event| &event.event.metadata).find(|metadata| metadata.get(IDS) == Some(&self.ids));
        match of_these_ids.map(|metadata| metadata.get(CALL_DIGEST)) {
            None => CallMatch::New,
            // Written by an older service, which stored no digest of the commands.
            Some(None) => CallMatch::Executed,
            Some(Some(commands)) if *commands == self.commands => CallMatch::Executed,
            Some(Some(_)) => CallMatch::Another,
        }
    }
}
