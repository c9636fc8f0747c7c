//! What tells one call of several commands from another with the same ids.
//!
//! A command that led to events is found by their ids. One that changed nothing leaves nothing of its own; but the
//! events of the others in its call say which commands that had.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::command::Command;
use crate::event::RecordedEvent;

/// Keys in the metadata of an event: of the ids alone, which is all that older services wrote, and of the ids and what
/// the commands do.
const IDS: &str = "call";
const COMMANDS: &str = "call_digest";

/// Names a call by its commands; empty where there is one, which names itself.
#[derive(Debug, Default)]
pub struct Call {
    ids: String,
    commands: String,
}

/// What the call is to the events that were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// These commands were not executed as one call.
    New,
    /// It was executed, as a whole.
    Executed,
    /// A call of the same ids was, and one of its commands was another.
    Another,
}

impl Call {
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

    /// Writes it into what an event of the call has beside its data.
    pub fn mark(&self, metadata: &mut BTreeMap<String, String>) {
        if !self.ids.is_empty() {
            metadata.insert(IDS.to_owned(), self.ids.clone());
            metadata.insert(COMMANDS.to_owned(), self.commands.clone());
        }
    }

    /// `found`: first events of its commands.
    pub fn was<'f>(&self, found: impl Iterator<Item = &'f RecordedEvent>) -> Was {
        let of_these_ids =
            found.map(|event| &event.event.metadata).find(|metadata| metadata.get(IDS) == Some(&self.ids));
        match of_these_ids.map(|metadata| metadata.get(COMMANDS)) {
            None => Was::New,
            // Of an older service, which can't tell.
            Some(None) => Was::Executed,
            Some(Some(commands)) if *commands == self.commands => Was::Executed,
            Some(Some(_)) => Was::Another,
        }
    }
}
