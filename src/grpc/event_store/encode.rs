//! Encodes the responses of the event store service.
//!
//! Also bounds the size of the response to an append, so that its bytes can be reserved before the
//! append begins. What a response contains is decided by the store.

use bytes::Bytes;

use crate::{
    event::{AggregateId, Content, NewEvent, Snapshot, Timestamp},
    grpc::wire,
    index::Head,
    refusals::RefusalStats,
    replication::{state::State, status::View},
    store::{Append, Appended, Figures, StoredIn},
    world::ProjectionState,
};

pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.seconds(), nanos: at.nanos() }
}

pub(crate) fn stored_in(stored_in: StoredIn) -> wire::StoredIn {
    match stored_in {
        StoredIn::LocalLog => wire::StoredIn::LocalLog,
        StoredIn::Immudb(_) => wire::StoredIn::Immudb,
    }
}

pub(crate) fn appended(appended: Appended) -> wire::AppendEventsResponse {
    let Appended { stored, stored_in: place } = appended;
    let aggregates = stored.aggregates.into_iter().map(|aggregate| wire::AppendedAggregate {
        aggregate_id: aggregate.id.as_str().to_owned(),
        first_sequence: aggregate.first.0,
        last_sequence: aggregate.last.0,
        snapshot_due: aggregate.snapshot_due,
    });
    wire::AppendEventsResponse {
        aggregates: aggregates.collect(),
        event_ids: stored.event_ids.iter().map(ToString::to_string).collect(),
        first_position: stored.bounds.first.0,
        last_position: stored.bounds.last.0,
        stored_in: stored_in(place).into(),
        immudb_tx: match place {
            StoredIn::Immudb(tx) => tx.unwrap_or(0),
            StoredIn::LocalLog => 0,
        },
        already_stored: stored.already,
    }
}

/// Returns the maximum size of the response to an append, not counting the fixed part that every
/// response has.
pub(crate) fn appended_bytes_max(append: &Append) -> usize {
    /// An event id as text, and the numbers of its aggregate, with the tags and lengths of the
    /// fields.
    const EVENT_BYTES: usize = 38 + 32;
    let bytes = |event: &NewEvent| event.aggregate_id.as_str().len().saturating_add(EVENT_BYTES);
    append.events.iter().map(|(event, _)| bytes(event)).sum()
}

pub(crate) fn snapshot(snapshot: Snapshot) -> wire::Snapshot {
    wire::Snapshot {
        aggregate_id: snapshot.aggregate_id.as_str().to_owned(),
        sequence_number: snapshot.sequence.0,
        data: match snapshot.content {
            Content::Absent => None,
            Content::Json(text) => Some(wire::snapshot::Data::Json(text)),
            Content::Binary(bytes) => Some(wire::snapshot::Data::Binary(bytes)),
        },
        schema_version: snapshot.schema_version,
        metadata: snapshot.metadata,
        recorded_at: Some(timestamp(snapshot.recorded_at)),
        redacted: false,
    }
}

pub(crate) fn aggregate((id, head): (AggregateId, Head)) -> wire::Aggregate {
    wire::Aggregate {
        aggregate_id: id.as_str().to_owned(),
        aggregate_type: head.aggregate_type.as_ref().to_owned(),
        last_sequence: head.last.0,
        snapshot_sequence: head.snapshot.map_or(0, |snapshot| snapshot.sequence.0),
    }
}

fn state(state: State) -> wire::State {
    match state {
        State::Connected => wire::State::Connected,
        State::Fallback => wire::State::Fallback,
        State::Migrating => wire::State::Migrating,
        State::LocalOnly => wire::State::LocalOnly,
        State::Suspect => wire::State::Suspect,
        State::Fenced => wire::State::Fenced,
        State::Tampered => wire::State::Tampered,
        // While the service starts, it is not yet known whether there is history to restore.
        State::Starting | State::Copying => wire::State::Copying,
    }
}

/// Returns the counts of the most frequent types by name, and the sum of the others as `other`.
fn most_frequent(
    totals: std::collections::HashMap<std::sync::Arc<str>, u64>,
) -> std::collections::BTreeMap<String, u64> {
    const NAMED_MAX: usize = 1000;
    let mut all: Vec<_> = totals.into_iter().collect();
    all.sort_unstable_by(|(name, count), (other_name, other)| other.cmp(count).then(name.cmp(other_name)));
    let rest: u64 = all.iter().skip(NAMED_MAX).map(|(_, count)| count).sum();
    all.truncate(NAMED_MAX);
    let mut named: std::collections::BTreeMap<_, _> =
        all.into_iter().map(|(name, count)| (name.as_ref().to_owned(), count)).collect();
    if rest > 0 {
        *named.entry("other".to_owned()).or_default() += rest;
    }
    named
}

/// The part of the statistics that the store does not know.
#[derive(Debug, Clone)]
pub(crate) struct StatsContext {
    /// The address of ImmuDB, with the port, and its database. `None` if ImmuDB is not configured.
    pub immudb: Option<(String, String)>,
    pub event_files_pending: u64,
    pub projections: Vec<ProjectionState>,
    pub refusals: Vec<RefusalStats>,
    /// The reasons why writes and reads are rejected at the moment, if they are.
    pub writes_refused: Option<&'static str>,
    pub reads_refused: Option<&'static str>,
    pub proofs: ProofFigures,
    /// `None` without TLS.
    pub tls_valid_until: Option<prost_types::Timestamp>,
    /// Empty if the caller may not know them.
    pub identities: Vec<wire::IdentityUse>,
}

/// The figures about the tree, the checkpoints, the anchors and the auditor.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProofFigures {
    pub tree_size: u64,
    pub checkpoint_size: u64,
    pub checkpoint_at: Option<prost_types::Timestamp>,
    /// Empty if there is none.
    pub checkpoint_problem: String,
    pub anchors: Vec<wire::AnchorStats>,
    /// `None` if no auditor runs.
    pub audit: Option<wire::AuditStats>,
}

fn refusal(refusal: RefusalStats) -> wire::RefusalStats {
    wire::RefusalStats {
        reason: refusal.reason.to_owned(),
        message: refusal.message,
        calls: refusal.calls,
        since: Some(timestamp(refusal.since)),
        last: Some(timestamp(refusal.last)),
    }
}

fn projection(state: ProjectionState) -> wire::ProjectionStats {
    let ProjectionState { name, position, lag, problem } = state;
    wire::ProjectionStats { name: name.to_owned(), position: position.0, lag, problem }
}

pub(crate) fn stats(
    figures: Figures,
    counters: &crate::stats::Counters,
    started_at: Timestamp,
    surroundings: StatsContext,
) -> wire::StatsResponse {
    let Figures {
        complete,
        totals,
        view,
        pending_events,
        pending_snapshots,
        clock_difference,
        recorded_ahead,
    } = figures;
    let trusted = view.trusted.as_ref();
    let ProofFigures { tree_size, checkpoint_size, checkpoint_at, checkpoint_problem, anchors, audit } =
        surroundings.proofs;
    wire::StatsResponse {
        state: state(view.state).into(),
        event_count: complete.tip.position.0,
        aggregate_count: complete.aggregates,
        snapshot_count: complete.snapshots,
        event_types: most_frequent(totals.event_types),
        aggregate_types: most_frequent(totals.aggregate_types),
        last_position: complete.tip.position.0,
        forwarded_position: view.forwarded.position.0,
        pending_events,
        pending_snapshots,
        event_files_pending: surroundings.event_files_pending,
        events_stored: counters.events_stored.get(),
        events_loaded: counters.events_loaded.get(),
        snapshots_stored: counters.snapshots_stored.get(),
        snapshots_loaded: counters.snapshots_loaded.get(),
        store_failures: counters.store_failures.get(),
        load_failures: counters.load_failures.get(),
        retries: view.retries,
        fallbacks: view.fallbacks,
        migrated_events: view.migrated_events,
        immudb: Some(immudb(&view, surroundings.immudb)),
        started_at: Some(timestamp(started_at)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        projections: surroundings.projections.into_iter().map(projection).collect(),
        refusals: surroundings.refusals.into_iter().map(refusal).collect(),
        writes_refused: surroundings.writes_refused.unwrap_or_default().to_owned(),
        reads_refused: surroundings.reads_refused.unwrap_or_default().to_owned(),
        clock_difference_seconds: clock_difference,
        recorded_ahead_seconds: recorded_ahead,
        trusted_transaction: trusted.map_or(0, |trusted| trusted.tx),
        trusted_hash: trusted.map_or_else(Bytes::new, |trusted| Bytes::copy_from_slice(&trusted.hash)),
        open_findings: view.open_findings,
        tree_size,
        checkpoint_size,
        checkpoint_at,
        checkpoint_problem,
        anchors,
        audit,
        tls_valid_until: surroundings.tls_valid_until,
        identities: surroundings.identities,
    }
}

/// `place` is the address and the database, if ImmuDB is configured.
fn immudb(view: &View, place: Option<(String, String)>) -> wire::ImmudbStats {
    let configured = place.is_some();
    let (address, database) = place.unwrap_or_default();
    wire::ImmudbStats {
        configured,
        reachable: view.reachable,
        address,
        database,
        last_tx: view.last_tx.unwrap_or(0),
        last_error: view.last_error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;

    use super::*;
    use crate::{
        event::{AppendBounds, ContentDigest, EventId, Position, SequenceNumber},
        log::LogOffset,
        store::{StoredAggregate, StoredAppend},
    };

    #[test]
    fn no_answer_to_an_append_is_larger_than_what_is_reserved_for_it() {
        let event = |number: u32| NewEvent {
            id: EventId::random(),
            aggregate_id: AggregateId::new(&format!("{number:0>255}")).unwrap(),
            aggregate_type: "Room".into(),
            event_type: "RoomCreated".into(),
            content: Content::Absent,
            correlation_id: String::new(),
            causation_id: String::new(),
            metadata: BTreeMap::new(),
            occurred_at: Some(Timestamp::now()),
        };
        for count in [1, 500] {
            let events: Vec<_> = (0..count).map(event).map(|event| (event, ContentDigest([0; 32]))).collect();
            let append = Append { events, expected: Vec::new() };
            let most = u64::MAX;
            let aggregate = |event: &NewEvent| StoredAggregate {
                id: event.aggregate_id.clone(),
                first: SequenceNumber(most),
                last: SequenceNumber(most),
                snapshot_due: true,
            };
            let stored = StoredAppend {
                aggregates: append.events.iter().map(|(event, _)| aggregate(event)).collect(),
                event_ids: append.events.iter().map(|(event, _)| event.id).collect(),
                bounds: AppendBounds { first: Position(most), last: Position(most) },
                end: LogOffset::START,
                already: true,
            };
            let answer = appended(Appended { stored, stored_in: StoredIn::Immudb(Some(most)) });
            // Every response also has a small fixed part.
            assert!(answer.encoded_len() <= appended_bytes_max(&append) + 100, "{count} events");
        }
    }
}
