//! Findings from outside of the forwarder: of the auditor, and of the comparison with anchors.
//!
//! The forwarder alone keeps the findings and the state, so everybody else reports to it. A service
//! without ImmuDB has no forwarder, and records them without it.

use std::{io, path::PathBuf, sync::Arc};

use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::{error, warn};

use super::{
    findings::{self, Finding, Findings},
    notice::Notice,
    state::State,
    status::ReplicationStatus,
    tampering::{Condition, Evidence},
};
use crate::{durable_file, event::Timestamp};

/// The number of reports that are kept until they are handled. Those who report wait for room.
const CAPACITY: usize = 64;

/// A finding, and what it is a finding of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub condition: Condition,
    pub finding: Finding,
}

/// Sends reports. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Reports(mpsc::Sender<Report>);

/// Receives reports.
#[derive(Debug)]
pub(crate) struct ReportInbox {
    receiver: mpsc::Receiver<Report>,
    /// The next one, if it was waited for.
    next: Option<Report>,
}

/// Creates the two ends of a channel for reports.
pub(crate) fn channel() -> (Reports, ReportInbox) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    (Reports(sender), ReportInbox { receiver, next: None })
}

impl Reports {
    /// Sends a report. Waits if many have not been handled yet. After the end of the receiver, the
    /// report is lost: the process is stopping, and the next one finds the same.
    pub(crate) async fn send(&self, report: Report) {
        _ = self.0.send(report).await;
    }
}

impl ReportInbox {
    /// Waits for a report. [`Self::take`] returns it. May be cancelled. Does not return if nobody
    /// can report any more.
    pub(super) async fn arrived(&mut self) {
        if self.next.is_some() {
            return;
        }
        match self.receiver.recv().await {
            Some(report) => self.next = Some(report),
            None => std::future::pending().await,
        }
    }

    /// Returns the next report, if there is one.
    pub(super) fn take(&mut self) -> Option<Report> {
        self.next.take().or_else(|| self.receiver.try_recv().ok())
    }

    /// For a service without ImmuDB: records each report in the file of the findings, next to the
    /// log, and in the log of the service. The state stays. Runs until nobody can report any more.
    pub(crate) async fn record_only(mut self, log_path: PathBuf, replication: Arc<ReplicationStatus>) {
        let path = durable_file::beside_log(&log_path, findings::EXTENSION);
        let opened = {
            let path = path.clone();
            spawn_blocking(move || Findings::open(&path)).await
        };
        let mut findings = match opened {
            Ok(Ok(findings)) => findings,
            Ok(Err(error)) => {
                warn!(%error, file = %path.display(), "cannot read the findings; new ones are not saved");
                Findings::unreadable(&path)
            }
            // The runtime is shutting down.
            Err(_) => return,
        };
        replication.has_findings(findings.open_count());
        let (mut told, mut unsaved) = (Notice::default(), Notice::default());
        while let Some(report) = self.receiver.recv().await {
            let mut next = Some(report);
            while let Some(report) = next {
                record(report, &mut findings, &mut told);
                next = self.receiver.try_recv().ok();
            }
            replication.has_findings(findings.open_count());
            let Some(save) = findings.begin_save() else { continue };
            let saved =
                spawn_blocking(move || save.run()).await.unwrap_or_else(|error| Err(io::Error::other(error)));
            findings.end_save(saved.is_ok());
            if let Err(error) = saved
                && let Some(attempts) = unsaved.add(1)
            {
                warn!(%error, attempts, "cannot save the findings next to the log");
            }
        }
    }
}

/// Records a report, unless an operator has accepted the same, and logs it at most once a minute.
fn record(report: Report, findings: &mut Findings, told: &mut Notice) {
    let Report { condition, finding } = report;
    if findings.is_accepted(&finding) {
        return;
    }
    findings.record(finding.clone(), Timestamp::now());
    if let Some(count) = told.add(1) {
        let evidence = Evidence::of(condition, finding);
        match condition.row().state {
            Some(State::Tampered) => error!(%evidence, findings = count, "the history was changed"),
            _ => warn!(%evidence, findings = count, "something is wrong with the history"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::record::ReplicationMark,
        log::LogOffset,
        replication::{PendingLimits, findings::FindingKind},
    };

    fn report(condition: Condition, tx: u64) -> Report {
        Report { condition, finding: condition.finding("this", "that").in_transaction(tx) }
    }

    #[tokio::test]
    async fn reports_arrive_in_order_and_waiting_for_one_takes_none() {
        let (reports, mut inbox) = channel();
        assert_eq!(inbox.take(), None);
        for tx in 1..=3 {
            reports.send(report(Condition::RecordDiffers, tx)).await;
        }
        for tx in 1..=3 {
            inbox.arrived().await;
            inbox.arrived().await;
            assert_eq!(inbox.take(), Some(report(Condition::RecordDiffers, tx)));
        }
        assert_eq!(inbox.take(), None);
        drop(inbox);
        reports.send(report(Condition::RecordDiffers, 4)).await;
    }

    #[tokio::test]
    async fn without_immudb_findings_are_recorded_and_the_state_stays() {
        let dir = tempfile::tempdir().unwrap();
        let log_path = dir.path().join("log");
        let limits = PendingLimits { events_max: 100, bytes_max: 100, segment_bytes_max: 100 };
        let mark = ReplicationMark::default();
        let status =
            Arc::new(ReplicationStatus::new(State::LocalOnly, mark, LogOffset::START, false, limits));
        let (reports, inbox) = channel();
        let recording = tokio::spawn(inbox.record_only(log_path.clone(), status.clone()));
        for (condition, tx) in
            [(Condition::AnchorDiffers, 1), (Condition::LocalDamage, 2), (Condition::AnchorDiffers, 1)]
        {
            reports.send(report(condition, tx)).await;
        }
        drop(reports);
        recording.await.unwrap();
        assert_eq!((status.view().open_findings, status.state()), (2, State::LocalOnly));
        let path = durable_file::beside_log(&log_path, findings::EXTENSION);
        let mut saved = Findings::open(&path).unwrap();
        let found: Vec<_> = saved.list().iter().map(|found| (found.finding.kind, found.count)).collect();
        assert_eq!(found, [(FindingKind::AnchorDiffers, 2), (FindingKind::LocalDamage, 1)]);

        // What an operator has accepted is no news.
        saved.accept(&[1], "known", Timestamp::now());
        saved.save().unwrap();
        let (reports, inbox) = channel();
        let recording = tokio::spawn(inbox.record_only(log_path, status.clone()));
        for tx in [1, 2] {
            reports.send(report(Condition::AnchorDiffers, tx)).await;
        }
        drop(reports);
        recording.await.unwrap();
        assert_eq!(status.view().open_findings, 2);
        assert_eq!(Findings::open(&path).unwrap().list().len(), 3);
    }
}
