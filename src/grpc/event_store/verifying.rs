//! The streams of verifications: their progress after each step, and then the result.
//!
//! The next step begins only after the previous message has been taken.

use bytes::Bytes;
use futures_util::stream;
use tonic::Status;

use super::{
    EventStoreCalls,
    streams::{Messages, ReadContext},
};
use crate::{
    error::NoProof,
    event::AggregateId,
    grpc::{
        status,
        transport::reads::{previous_sent, size_answer},
        wire::{self, verify_aggregate_response, verify_all_response},
    },
    transparency::verification::{Contradiction, Outcome, Progress, Turn, Verification},
};

/// What a message has.
enum Content {
    Progress(wire::VerificationProgress),
    Result(wire::VerificationResult),
}

impl EventStoreCalls {
    /// Starts the verification of an aggregate, or of the whole history.
    pub(super) async fn verification(&self, of: Option<AggregateId>) -> Result<Verification, Status> {
        self.store.admit_read().map_err(status::of_error)?;
        let verifier = self.verifier.as_ref().ok_or_else(|| status::of_error(NoProof::Disabled.into()))?;
        let started = match of {
            Some(id) => verifier.aggregate(id).await,
            None => verifier.whole(),
        };
        started.map_err(status::of_error)
    }
}

/// Streams the verification of an aggregate.
pub(super) fn aggregate(
    reading: ReadContext,
    verification: Verification,
) -> impl Messages<wire::VerifyAggregateResponse> {
    use verify_aggregate_response::Content as Wire;
    run(reading, verification, |content| wire::VerifyAggregateResponse {
        content: Some(match content {
            Content::Progress(progress) => Wire::Progress(progress),
            Content::Result(result) => Wire::Result(result),
        }),
    })
}

/// Streams the verification of the whole history.
pub(super) fn whole(
    reading: ReadContext,
    verification: Verification,
) -> impl Messages<wire::VerifyAllResponse> {
    use verify_all_response::Content as Wire;
    run(reading, verification, |content| wire::VerifyAllResponse {
        content: Some(match content {
            Content::Progress(progress) => Wire::Progress(progress),
            Content::Result(result) => Wire::Result(result),
        }),
    })
}

fn run<T: prost::Message + 'static>(
    reading: ReadContext,
    verification: Verification,
    message: fn(Content) -> T,
) -> impl Messages<T> {
    stream::try_unfold(Some(verification), move |state| {
        let ReadContext { reads, call, .. } = reading.clone();
        async move {
            let Some(mut verification) = state else { return Ok(None) };
            let (message, left) = match verification.turn() {
                Turn::Ended => (message(Content::Result(result(verification.outcome()))), None),
                Turn::Local => {
                    let (verification, read) = reads.next(&call, verification, Verification::local).await?;
                    read.map_err(status::of_error)?;
                    (message(Content::Progress(progress(verification.progress()))), Some(verification))
                }
                Turn::Immudb => {
                    previous_sent().await;
                    verification.immudb().await;
                    (message(Content::Progress(progress(verification.progress()))), Some(verification))
                }
            };
            size_answer(&call, &message)?;
            Ok(Some((message, left)))
        }
    })
}

fn progress(Progress { events, total }: Progress) -> wire::VerificationProgress {
    wire::VerificationProgress { events, total }
}

fn result(outcome: &Outcome) -> wire::VerificationResult {
    wire::VerificationResult {
        events: outcome.events,
        immudb_events: outcome.immudb_events,
        last_sequence: outcome.last.0,
        tree_size: outcome.tree_size,
        tree_root: Bytes::copy_from_slice(&outcome.tree_root),
        immudb_transaction: outcome.immudb_transaction,
        contradictions: outcome.contradictions.iter().map(contradiction).collect(),
        contradiction_count: outcome.contradiction_count,
        immudb_problem: outcome.immudb_problem.clone().unwrap_or_default(),
    }
}

fn contradiction(found: &Contradiction) -> wire::Contradiction {
    wire::Contradiction {
        position: found.position.0,
        aggregate_id: found.aggregate.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
        sequence_number: found.sequence.0,
        place: found.place.to_string(),
        expected: found.expected.clone(),
        found: found.found.clone(),
    }
}
