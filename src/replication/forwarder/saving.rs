//! Saves the trusted state and the findings next to the log, on other threads: clients wait for
//! this one. If that fails, nothing waits for it, and the next save has everything.

use std::io;

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use super::Forwarder;
use crate::{
    event::Timestamp,
    replication::{notice::Notice, trusted_state::SavedState},
};

/// What is being saved.
#[derive(Debug, Default)]
pub(super) struct Saves {
    trust: Option<JoinHandle<io::Result<()>>>,
    /// The save that is under way, or the last one, replaces what the file has.
    trust_replaces: bool,
    findings: Option<JoinHandle<io::Result<()>>>,
    /// Attempts that failed.
    failed: Notice,
}

impl Forwarder {
    /// Saves the trusted state in the background, unless it has hardly moved.
    pub(super) async fn save_trust_if_due(&mut self) {
        self.save_findings_if_due().await;
        if self.saves.trust.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        self.wait_for_trust().await;
        if self.trust.is_save_due() {
            self.begin_to_save_trust();
        }
    }

    /// Saves the trusted state, and waits until that is done.
    pub(super) async fn save_trust(&mut self) {
        self.wait_for_trust().await;
        self.begin_to_save_trust();
        self.wait_for_trust().await;
    }

    fn begin_to_save_trust(&mut self) {
        let Some(ledger) = &self.trust.ledger else { return };
        let chain = ledger.settled().clone();
        self.trust.saved = chain.state().tx;
        let tree = self.trust.trees.up_to(chain.state().tx);
        let saved = SavedState { server: self.trust.server.as_ref().to_owned(), chain, tree };
        let (file, replaces) = (self.trust.file.clone(), std::mem::take(&mut self.trust.replaces));
        self.saves.trust_replaces = replaces;
        let save = move || if replaces { file.replace(&saved) } else { file.store(&saved) };
        self.saves.trust = Some(spawn_blocking(save));
    }

    async fn wait_for_trust(&mut self) {
        // It stays under way if this is interrupted by a shutdown.
        let Some(saving) = &mut self.saves.trust else { return };
        let saved = saving.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.saves.trust = None;
        // Until the other history was replaced, nothing may be added to it.
        self.trust.replaces |= saved.is_err() && self.saves.trust_replaces;
        self.note_unsaved(saved);
    }

    /// Publishes findings, and saves them soon.
    pub(super) async fn publish_findings(&mut self) {
        self.replication.has_findings(self.trust.findings.open_count());
        self.save_findings_if_due().await;
    }

    /// Publishes and saves all findings.
    pub(super) async fn save_findings(&mut self) {
        self.replication.has_findings(self.trust.findings.open_count());
        self.wait_for_findings().await;
        self.begin_to_save_findings();
        self.wait_for_findings().await;
    }

    async fn save_findings_if_due(&mut self) {
        if self.saves.findings.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        self.wait_for_findings().await;
        if self.trust.findings.is_save_due(Timestamp::now()) {
            self.begin_to_save_findings();
        }
    }

    fn begin_to_save_findings(&mut self) {
        if let Some(save) = self.trust.findings.begin_save() {
            self.saves.findings = Some(spawn_blocking(move || save.run()));
        }
    }

    async fn wait_for_findings(&mut self) {
        let Some(saving) = &mut self.saves.findings else { return };
        let saved = saving.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.saves.findings = None;
        self.trust.findings.end_save(saved.is_ok());
        self.note_unsaved(saved);
    }

    fn note_unsaved(&mut self, saved: io::Result<()>) {
        if let Err(error) = saved
            && let Some(attempts) = self.saves.failed.add(1)
        {
            warn!(%error, attempts, "cannot save the trusted state or the findings next to the log");
        }
    }
}
