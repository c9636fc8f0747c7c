//! Takes findings from outside of the forwarder, and stays stopped where an operator has to act.

use std::{error::Error, time::Duration};

use tokio::time::sleep;
use tracing::{debug, error, warn};

use super::{Forwarder, trust::TrustError};
use crate::{
    event::Timestamp,
    immudb::{Session, TxId},
    replication::{
        examination::Heads,
        findings::{Finding, FindingKind},
        head::{self, LogHead},
        reports::Report,
        state::{Signal, State},
        tampering::{Condition, Evidence},
    },
};

impl Forwarder {
    /// Records what was reported, unless an operator has accepted the same. Returns what leads to
    /// `STATE_TAMPERED` at once: that is recorded with the state. What is reported of ImmuDB has to
    /// be confirmed before, and is kept until then.
    pub(super) async fn take_reports(&mut self) -> Option<Evidence> {
        /// A flood of reports must not keep the forwarder busy.
        const AT_ONCE: usize = 64;
        /// Of what waits for a confirmation. What is left out is found again.
        const ALLEGED_MAX: usize = 1000;
        let mut tampered: Option<Evidence> = None;
        let mut is_any_recorded = false;
        for _ in 0..AT_ONCE {
            let Some(Report { condition, finding }) = self.reports.take() else { break };
            if self.trust.findings.is_accepted(&finding) {
                debug!(?finding, "a finding that was accepted is reported again");
                continue;
            }
            if condition.signal() != Some(Signal::Tampered) {
                is_any_recorded = true;
                self.record_report(condition, finding);
                continue;
            }
            let is_of_anchor = condition == Condition::AnchorDiffers;
            let evidence = if is_of_anchor { &mut tampered } else { &mut self.alleged };
            match evidence {
                Some(evidence) if evidence.findings.len() < ALLEGED_MAX => evidence.findings.push(finding),
                Some(_) => {}
                None => *evidence = Some(Evidence::of(condition, finding)),
            }
        }
        if is_any_recorded {
            self.publish_findings().await;
        }
        tampered
    }

    /// Takes what was reported. Returns what leads to `STATE_TAMPERED`. What is reported of ImmuDB
    /// does so only while ImmuDB continues the trusted history: if it was put back, emptied or
    /// exchanged, the error tells, and the next contact decides about the state.
    pub(super) async fn reported_tampering(
        &mut self,
        session: &Session,
    ) -> Result<Option<Evidence>, TrustError> {
        if let Some(evidence) = self.take_reports().await {
            return Ok(Some(evidence));
        }
        if self.alleged.is_none() {
            return Ok(None);
        }
        self.catch_up(session, Heads::Unknown).await?;
        let Some(mut alleged) = self.alleged.take() else { return Ok(None) };
        // A receipt that was taken back since is not what the history has to have.
        alleged.findings.retain(|finding| {
            let expected = finding.transaction.and_then(|tx| self.trust.hash_of(TxId(tx)));
            let is_of_hash = finding.kind == FindingKind::OtherHash;
            !is_of_hash || expected.is_none_or(|expected| hex::encode(expected) == finding.expected)
        });
        Ok(Some(alleged).filter(|alleged| !alleged.findings.is_empty()))
    }

    /// Records a finding, and logs it at most once a minute.
    fn record_report(&mut self, condition: Condition, finding: Finding) {
        self.trust.findings.record(finding.clone(), Timestamp::now());
        if let Some(findings) = self.reported.add(1) {
            let (evidence, way_out) = (Evidence::of(condition, finding), condition.row().way_out);
            warn!(%evidence, %way_out, findings, "the history has findings");
        }
    }

    /// Stays stopped until shutdown. All that is reported is recorded. In `STATE_TAMPERED`, ImmuDB
    /// may still be asked whether the local log is current, which may have to be known before
    /// anything is served.
    pub(super) async fn stay_stopped(&mut self) {
        let shutdown = self.shutdown.clone();
        let was_tampered = self.replication.view().forwarded.tampered;
        let mut may_ask = true;
        self.record_alleged().await;
        while !shutdown.is_cancelled() {
            let is_tampered = was_tampered || self.machine.state() == State::Tampered;
            let mut pause = None;
            if may_ask && is_tampered && !self.replication.was_contacted() {
                match shutdown.run_until_cancelled(self.is_log_current()).await {
                    Some(Ok(true)) => self.replication.contacted(),
                    Some(Ok(false)) => {
                        error!("the local log lacks events that ImmuDB has");
                        may_ask = false;
                    }
                    Some(Err(error)) => {
                        debug!(%error, "ImmuDB cannot be asked whether the local log is current");
                        pause = Some(Self::CONFIGURATION_DELAY.max(self.settings.retry_delay_max));
                    }
                    None => return,
                }
            }
            let Some(evidence) = self.next_evidence(pause).await else { continue };
            if self.machine.state() == State::Suspect {
                self.stop_tampered(evidence).await;
                continue;
            }
            self.record_evidence(evidence).await;
        }
    }

    /// Records what was reported of ImmuDB, which changes no state any more. Where ImmuDB lacks the
    /// history, or another writer has the database, it says nothing about this history.
    async fn record_alleged(&mut self) {
        let Some(alleged) = self.alleged.take() else { return };
        if !matches!(self.machine.state(), State::Suspect | State::Fenced) {
            self.record_evidence(alleged).await;
        }
    }

    async fn record_evidence(&mut self, evidence: Evidence) {
        for finding in evidence.findings {
            self.record_report(evidence.condition, finding);
        }
        self.publish_findings().await;
    }

    /// Waits for reports, and records them. What an anchor has is returned instead. Returns `None`
    /// after the pause, and on shutdown.
    async fn next_evidence(&mut self, pause: Option<Duration>) -> Option<Evidence> {
        /// Findings are saved once a second while more and more come, and after this time at last.
        const SAVED_AFTER: Duration = Duration::from_secs(1);
        let rest = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(rest);
        let mut unsaved = true;
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = &mut rest => {
                    self.save_findings().await;
                    return None;
                }
                () = self.reports.arrived() => {}
                () = sleep(SAVED_AFTER), if unsaved => {
                    // Nothing else saves them while the forwarder is stopped.
                    self.save_findings().await;
                    unsaved = false;
                    continue;
                }
            }
            unsaved = true;
            let evidence = self.take_reports().await;
            self.record_alleged().await;
            if evidence.is_some() {
                return evidence;
            }
        }
    }

    /// Returns whether the local log has everything up to ImmuDB's head.
    async fn is_log_current(&self) -> Result<bool, Box<dyn Error + Send + Sync>> {
        let session = Session::open_existing(&self.settings.immudb).await?;
        let entry = session.get(head::KEY).await?;
        session.close().await;
        let head = entry.and_then(|entry| LogHead::decode(&entry.value));
        Ok(head.is_none_or(|head| head.position <= self.sequencer.tip().position))
    }
}
