//! Starts what makes proofs and what checks the history without a caller: the tree, checkpoints and
//! the auditor. The forwarder gets the other ends.

use std::{io, sync::Arc};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::settings;
use crate::{
    config::Config,
    history::History,
    log::LogId,
    replication::{
        audit::{self, AuditSettings, AuditWatch},
        checkpoint_queue::CheckpointQueue,
        reports::{self, ReportInbox, Reports},
        status::ReplicationStatus,
    },
    sequencer::Sequencer,
    transparency::{
        Transparency, TransparencyParts, follower,
        verification::{Verifier, VerifierParts},
    },
    tree::{TreeState, TreeWatch},
};

/// The parts of the service that everything here is made from.
pub(super) struct ProofParts<'a> {
    pub history: &'a History,
    pub sequencer: &'a Sequencer,
    pub replication: &'a Arc<ReplicationStatus>,
    pub tasks: &'a TaskTracker,
    pub stopping: &'a CancellationToken,
}

/// What the calls use.
#[derive(Debug, Clone, Default)]
pub(super) struct Proofs {
    /// `None` if the log cannot be written, or has no id.
    pub transparency: Option<Transparency>,
    pub verifier: Option<Verifier>,
    /// `None` if no auditor runs.
    pub audit: Option<AuditWatch>,
}

/// What the forwarder uses.
pub(super) struct ForwarderEnds {
    pub tree: TreeWatch,
    pub checkpoints: CheckpointQueue,
    pub reports: ReportInbox,
}

impl Proofs {
    /// Starts the threads and tasks. They end when `stopping` is cancelled. `log` is the id of the
    /// log if it can be written.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started.
    pub(super) fn start(
        config: &Config,
        log: Option<LogId>,
        parts: &ProofParts<'_>,
    ) -> io::Result<(Self, ForwarderEnds)> {
        let (reports, inbox) = reports::channel();
        let checkpoints = CheckpointQueue::new();
        let Some(log) = log else {
            let tree = no_tree("the storage is read-only, or the log has no id");
            return Ok((Self::default(), ForwarderEnds { tree, checkpoints, reports: inbox }));
        };
        let ProofParts { history, sequencer, replication, tasks, stopping } = *parts;
        let follower = settings::follower(config, log);
        let (tree, ended) =
            follower::follow(follower, history.clone(), sequencer.watch_tip(), stopping.clone())?;
        tasks.spawn(ended);
        let transparency = Transparency::start(
            settings::transparency(config, log),
            TransparencyParts {
                history: history.clone(),
                tip: sequencer.watch_tip(),
                tree: tree.clone(),
                replication: replication.clone(),
                checkpoints: checkpoints.clone(),
                reports: reports.clone(),
            },
            stopping,
            tasks,
        );
        let audit = start_audit(config, (log, &transparency), parts, &reports)?;
        let verifier = Verifier::new(VerifierParts {
            history: history.clone(),
            replication: replication.clone(),
            transparency: transparency.clone(),
            immudb: config.immudb.as_ref().map(settings::immudb),
        });
        if let Ok(key) = transparency.verifier_key() {
            info!(%key, "checkpoints are signed with this key");
        }
        let proofs = Self { transparency: Some(transparency), verifier: Some(verifier), audit };
        Ok((proofs, ForwarderEnds { tree, checkpoints, reports: inbox }))
    }
}

/// Starts the auditor, unless it is off.
fn start_audit(
    config: &Config,
    (log, transparency): (LogId, &Transparency),
    parts: &ProofParts<'_>,
    reports: &Reports,
) -> io::Result<Option<AuditWatch>> {
    let Some(settings) = settings::audit(config, log) else { return Ok(None) };
    let settings = AuditSettings { checkpoints: Some(Arc::new(transparency.clone())), ..settings };
    let ProofParts { history, replication, tasks, stopping, .. } = *parts;
    let (history, replication) = (history.clone(), replication.clone());
    let (audit, ended) = audit::start(settings, history, replication, reports.clone(), stopping.clone())?;
    tasks.spawn(ended);
    Ok(Some(audit))
}

/// Returns a tree that will never be there.
fn no_tree(reason: &str) -> TreeWatch {
    let (sender, tree) = TreeWatch::channel();
    sender.send_replace(TreeState::Failed { reason: reason.to_owned() });
    tree
}

impl ForwarderEnds {
    /// Records the reports in a service that has no forwarder.
    pub(super) fn record_only(self, config: &Config, parts: &ProofParts<'_>) {
        let log_path = config.event_sourcing.log_path.clone();
        let recording = self.reports.record_only(log_path, parts.replication.clone());
        let stopping = parts.stopping.clone();
        parts.tasks.spawn(async move { stopping.run_until_cancelled(recording).await });
    }
}
