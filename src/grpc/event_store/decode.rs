//! Decodes the requests of the event store service.
//!
//! Every field is checked here, once, and all violations of a request are reported together.
//! Whether a request fits the stored events is left to the store.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    event::{
        AggregateId, ChainHash, Content, ContentDigest, EventId, NewEvent, Position, SequenceNumber,
        Snapshot, Timestamp, check_name,
    },
    grpc::{settings::RequestLimits, violations::Violations, wire},
    index::Direction,
    store::{AggregateFilter, Append, Filter, LoadRequest, OrderStart},
};

mod fields;
mod proofs;

pub(crate) use fields::{aggregate_id, filter_values, name, timestamp, unless_zero, writable_id};
use fields::{content_ok, optional_name, stored_id};
pub(crate) use proofs::{ConsistencyRequest, ProofRequest};

/// Checks requests against the configured limits.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub limits: RequestLimits,
}

impl Decoder {
    /// Decodes an append.
    ///
    /// # Errors
    /// Returns an error that names every invalid field.
    pub(crate) fn append(&self, request: wire::AppendEventsRequest) -> Result<Append, Violations> {
        let mut wrong = Violations::default();
        let count = request.events.len();
        if count == 0 {
            wrong.add("events", "must not be empty");
        }
        if count > self.limits.append_events_max {
            wrong.add(
                "events",
                format!("has {count} entries; at most {} are allowed", self.limits.append_events_max),
            );
            return Err(wrong);
        }
        let bytes: usize = request.events.iter().map(prost::Message::encoded_len).sum();
        if bytes > self.limits.append_bytes_max {
            wrong.add(
                "events",
                format!("have {bytes} bytes in total; at most {} are allowed", self.limits.append_bytes_max),
            );
            return Err(wrong);
        }
        let mut events = Vec::with_capacity(count);
        let mut ids = HashSet::with_capacity(count);
        for (index, event) in request.events.into_iter().enumerate() {
            let before = events.last().map(|(event, _)| event);
            let event = self.event(format_args!("events[{index}]"), event, before, &mut wrong);
            let Some(event) = event else { continue };
            if !ids.insert(event.id) {
                wrong.add(format_args!("events[{index}].event_id"), "occurs more than once in this call");
            }
            let digest = ContentDigest::of(&event);
            events.push((event, digest));
        }
        let expected = self.expectations(request.expected_sequences, &mut wrong);
        wrong.none_or(Some(Append { events, expected }))
    }

    fn expectations(
        &self,
        expected: BTreeMap<String, u64>,
        wrong: &mut Violations,
    ) -> Vec<(AggregateId, SequenceNumber)> {
        let max = self.limits.expected_sequences_max;
        if expected.len() > max {
            wrong.add(
                "expected_sequences",
                format!("has {} entries; at most {max} are allowed", expected.len()),
            );
            return Vec::new();
        }
        let mut checked = Vec::with_capacity(expected.len());
        for (index, (id, sequence)) in expected.into_iter().enumerate() {
            // Only compared, so a reserved id is allowed.
            let field = format_args!("expected_sequences[{index}]");
            let id = aggregate_id(field, &id, self.limits.id_bytes_max, wrong);
            checked.extend(id.map(|id| (id, SequenceNumber(sequence))));
        }
        checked
    }

    /// Decodes one event. Texts that equal those of the previous event are shared with it.
    fn event(
        &self,
        at: fmt::Arguments<'_>,
        event: wire::NewEvent,
        before: Option<&NewEvent>,
        wrong: &mut Violations,
    ) -> Option<NewEvent> {
        let id = match event.event_id.as_str() {
            "" => Some(EventId::random()),
            text => EventId::parse(text).or_else(|| {
                wrong.add(format_args!("{at}.event_id"), "is not a UUID");
                None
            }),
        };
        let aggregate_id = match before.map(|before| &before.aggregate_id) {
            Some(same) if same.as_str() == event.aggregate_id => Some(same.clone()),
            _ => self.writable_id(format_args!("{at}.aggregate_id"), &event.aggregate_id, wrong),
        };
        let types_max = self.limits.type_bytes_max;
        if !event.aggregate_type.is_empty() {
            name(format_args!("{at}.aggregate_type"), &event.aggregate_type, types_max, wrong);
        }
        name(format_args!("{at}.event_type"), &event.event_type, types_max, wrong);
        for (field, text) in
            [("correlation_id", &event.correlation_id), ("causation_id", &event.causation_id)]
        {
            if !text.is_empty() {
                name(format_args!("{at}.{field}"), text, self.limits.id_bytes_max, wrong);
            }
        }
        self.metadata(format_args!("{at}.metadata"), &event.metadata, wrong);
        let occurred_at = timestamp(format_args!("{at}.occurred_at"), event.occurred_at, wrong);
        let content = match event.data {
            None => Content::Absent,
            Some(wire::new_event::Data::Json(text)) => Content::Json(text),
            Some(wire::new_event::Data::Binary(bytes)) => Content::Binary(bytes),
        };
        content_ok(format_args!("{at}."), &content, self.limits.event_bytes_max, wrong);
        Some(NewEvent {
            id: id?,
            aggregate_id: aggregate_id?,
            aggregate_type: shared(event.aggregate_type, before.map(|before| &before.aggregate_type)),
            event_type: shared(event.event_type, before.map(|before| &before.event_type)),
            content,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            metadata: event.metadata,
            occurred_at,
        })
    }

    /// Checks the id of an aggregate that is written to. Ids that are only read may be longer or
    /// reserved, because they may have been stored before they were refused.
    fn writable_id(
        &self,
        field: impl fmt::Display,
        text: &str,
        wrong: &mut Violations,
    ) -> Option<AggregateId> {
        writable_id(field, text, self.limits.id_bytes_max, wrong)
    }

    fn metadata(
        &self,
        field: impl fmt::Display,
        metadata: &BTreeMap<String, String>,
        wrong: &mut Violations,
    ) {
        let (entries_max, value_max) =
            (self.limits.metadata_entries_max, self.limits.metadata_value_bytes_max);
        if metadata.len() > entries_max {
            wrong.add(&field, format!("has {} entries; at most {entries_max} are allowed", metadata.len()));
        }
        for (key, value) in metadata {
            if let Err(error) = check_name(key) {
                wrong.add(&field, format!("a key is invalid: it {error}"));
            }
            if value.len() > value_max {
                wrong.add(
                    &field,
                    format!("a value has {} bytes; at most {value_max} are allowed", value.len()),
                );
            }
        }
    }

    /// Decodes a snapshot.
    ///
    /// # Errors
    /// Returns an error that names every invalid field.
    pub(crate) fn snapshot(&self, request: wire::SaveSnapshotRequest) -> Result<Snapshot, Violations> {
        let mut wrong = Violations::default();
        let id = self.writable_id("aggregate_id", &request.aggregate_id, &mut wrong);
        if request.sequence_number == 0 {
            wrong.add("sequence_number", "must be at least 1");
        }
        let content = match request.data {
            None => Content::Absent,
            Some(wire::save_snapshot_request::Data::Json(text)) => Content::Json(text),
            Some(wire::save_snapshot_request::Data::Binary(bytes)) => Content::Binary(bytes),
        };
        content_ok(format_args!(""), &content, self.limits.snapshot_bytes_max, &mut wrong);
        self.metadata("metadata", &request.metadata, &mut wrong);
        let snapshot = id.map(|aggregate_id| Snapshot {
            aggregate_id,
            sequence: SequenceNumber(request.sequence_number),
            content,
            schema_version: request.schema_version,
            metadata: request.metadata,
            // Both are set by the sequencer.
            recorded_at: Timestamp::default(),
            event_hash: ChainHash::START,
        });
        wrong.none_or(snapshot)
    }

    /// Decodes a request for the events of an aggregate.
    ///
    /// # Errors
    /// Returns an error that names every invalid field.
    pub(crate) fn load(&self, request: &wire::LoadEventsRequest) -> Result<LoadRequest, Violations> {
        let mut wrong = Violations::default();
        let id = stored_id("aggregate_id", &request.aggregate_id, &mut wrong);
        if request.from_snapshot && request.backwards {
            wrong.add("from_snapshot", "cannot be combined with backwards");
        }
        if request.from_snapshot && request.verified {
            wrong.add("from_snapshot", "cannot be combined with verified");
        }
        let recorded_until = timestamp("recorded_until", request.recorded_until, &mut wrong);
        let load = id.map(|aggregate_id| LoadRequest {
            aggregate_id,
            from: SequenceNumber(request.from_sequence),
            to: unless_zero(request.to_sequence).map(SequenceNumber),
            recorded_until,
            snapshot_schema: request.from_snapshot.then_some(request.snapshot_schema_version),
            direction: if request.backwards { Direction::Backwards } else { Direction::Forwards },
            limit: unless_zero(request.limit),
        });
        wrong.none_or(load)
    }

    /// Decodes a request for the events of several aggregates.
    ///
    /// # Errors
    /// Returns an error that names every invalid field.
    pub(crate) fn load_many(
        &self,
        request: wire::LoadManyEventsRequest,
    ) -> Result<Vec<LoadRequest>, Violations> {
        const IDS_MAX: usize = 1000;
        let mut wrong = Violations::default();
        let count = request.aggregate_ids.len();
        if count == 0 {
            wrong.add("aggregate_ids", "must not be empty");
        } else if count > IDS_MAX {
            wrong.add("aggregate_ids", format!("has {count} ids; at most {IDS_MAX} are allowed"));
        }
        let recorded_until = timestamp("recorded_until", request.recorded_until, &mut wrong);
        let mut seen = HashSet::new();
        let mut loads = Vec::new();
        for (index, id) in request.aggregate_ids.iter().take(IDS_MAX).enumerate() {
            let field = format!("aggregate_ids[{index}]");
            if !seen.insert(id) {
                wrong.add(&field, "occurs twice");
            }
            let Some(aggregate_id) = stored_id(&field, id, &mut wrong) else { continue };
            loads.push(LoadRequest {
                recorded_until,
                snapshot_schema: request.from_snapshot.then_some(request.snapshot_schema_version),
                ..LoadRequest::all_of(aggregate_id)
            });
        }
        wrong.none_or(Some(loads))
    }

    /// Decodes the id of an aggregate to read.
    ///
    /// # Errors
    /// Returns an error that names the field if the id is invalid.
    pub(crate) fn id(&self, text: &str) -> Result<AggregateId, Violations> {
        let mut wrong = Violations::default();
        let id = stored_id("aggregate_id", text, &mut wrong);
        wrong.none_or(id)
    }

    /// Decodes a request for a page of aggregates.
    ///
    /// # Errors
    /// Returns an error that names every invalid field.
    pub(crate) fn list(&self, request: wire::ListAggregatesRequest) -> Result<ListRequest, Violations> {
        const PAGE_MAX: u32 = 1000;
        const PAGE_DEFAULT: u32 = 100;
        let mut wrong = Violations::default();
        if request.page_size > PAGE_MAX {
            wrong.add("page_size", format!("is {}; at most {PAGE_MAX} is allowed", request.page_size));
        }
        optional_name("aggregate_type", &request.aggregate_type, &mut wrong);
        optional_name("aggregate_id_prefix", &request.aggregate_id_prefix, &mut wrong);
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                let id = token_id(token);
                // A token of another listing would continue past the end of this one.
                let after = id.filter(|id| id.as_str().starts_with(&request.aggregate_id_prefix));
                if after.is_none() {
                    wrong.add("page_token", "is not a token of this list");
                }
                after
            }
        };
        let count = if request.page_size == 0 { PAGE_DEFAULT } else { request.page_size };
        let filter = AggregateFilter {
            aggregate_type: request.aggregate_type,
            prefix: request.aggregate_id_prefix,
            snapshot_due: request.snapshot_due,
        };
        wrong.none_or(Some(ListRequest { filter, after, count: count as usize }))
    }

    /// Decodes a filter. Without one, all events match.
    ///
    /// # Errors
    /// Returns an error that names every invalid field.
    pub(crate) fn filter(&self, filter: Option<wire::Filter>) -> Result<Filter, Violations> {
        let mut wrong = Violations::default();
        let filter = filter.unwrap_or_default();
        for (field, values) in [
            ("filter.aggregate_types", &filter.aggregate_types),
            ("filter.event_types", &filter.event_types),
            ("filter.aggregate_id_prefixes", &filter.aggregate_id_prefixes),
        ] {
            filter_values(field, values, &mut wrong);
        }
        optional_name("filter.aggregate_id_prefix", &filter.aggregate_id_prefix, &mut wrong);
        optional_name("filter.correlation_id", &filter.correlation_id, &mut wrong);
        let recorded_from = timestamp("filter.recorded_from", filter.recorded_from, &mut wrong);
        let recorded_until = timestamp("filter.recorded_until", filter.recorded_until, &mut wrong);
        if let (Some(from), Some(until)) = (recorded_from, recorded_until)
            && from > until
        {
            wrong.add("filter.recorded_from", "is later than filter.recorded_until");
        }
        wrong.none_or(Some(Filter {
            aggregate_types: filter.aggregate_types.into_iter().map(String::into_bytes).collect(),
            event_types: filter.event_types.into_iter().map(String::into_bytes).collect(),
            aggregate_id_prefix: filter.aggregate_id_prefix,
            aggregate_id_prefixes: filter.aggregate_id_prefixes,
            correlation_id: filter.correlation_id,
            recorded_from,
            recorded_until,
        }))
    }

    /// Decodes the checkpoint after which to read. Without one, reading starts at the first event.
    ///
    /// # Errors
    /// Returns an error that names the field if the length of the hash is wrong.
    pub(crate) fn checkpoint(&self, checkpoint: Option<wire::Checkpoint>) -> Result<OrderStart, Violations> {
        let Some(checkpoint) = checkpoint else { return Ok(OrderStart::After(Position(0), None)) };
        let hash = match checkpoint.chain_hash.as_ref() {
            [] => None,
            bytes => Some(ChainHash::from_slice(bytes).ok_or_else(|| {
                Violations(vec![("after.chain_hash".to_owned(), "must be empty or have 32 bytes".to_owned())])
            })?),
        };
        Ok(OrderStart::After(Position(checkpoint.position), hash))
    }
}

/// A page of aggregates.
#[derive(Debug)]
pub(crate) struct ListRequest {
    pub filter: AggregateFilter,
    pub after: Option<AggregateId>,
    pub count: usize,
}

/// Returns the token of the page after `id`. Tokens are opaque to clients.
pub(crate) fn page_token(id: &AggregateId) -> String {
    hex::encode(id.as_str())
}

pub(crate) fn token_id(token: &str) -> Option<AggregateId> {
    let text = String::from_utf8(hex::decode(token).ok()?).ok()?;
    AggregateId::new(&text).ok()
}

fn shared(text: String, before: Option<&Arc<str>>) -> Arc<str> {
    match before {
        Some(same) if **same == *text => same.clone(),
        _ => Arc::from(text),
    }
}

/// Returns the bytes of a hash as sent on the wire.
pub(crate) fn hash_bytes(hash: ChainHash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::LimitsConfig, server::settings};

    fn append(names: &[(&str, &str, &str)]) -> Result<Append, Violations> {
        let event = |(aggregate_id, aggregate_type, event_type): &(&str, &str, &str)| wire::NewEvent {
            aggregate_id: (*aggregate_id).to_owned(),
            aggregate_type: (*aggregate_type).to_owned(),
            event_type: (*event_type).to_owned(),
            ..wire::NewEvent::default()
        };
        let events = names.iter().map(event).collect();
        let request = wire::AppendEventsRequest { events, ..wire::AppendEventsRequest::default() };
        Decoder { limits: settings::request_limits(&LimitsConfig::default()) }.append(request)
    }

    #[test]
    fn an_event_shares_with_the_one_before_only_what_is_the_same() {
        let names = [("a", "A", "x"), ("a", "A", "x"), ("b", "A", "x"), ("b", "B", "y"), ("a", "", "x")];
        let events: Vec<_> = append(&names).unwrap().events.into_iter().map(|(event, _)| event).collect();
        let decoded = events.iter().map(|event| {
            (event.aggregate_id.as_str(), event.aggregate_type.as_ref(), event.event_type.as_ref())
        });
        assert_eq!(decoded.collect::<Vec<_>>(), names);
        assert!(Arc::ptr_eq(&events[0].aggregate_type, &events[2].aggregate_type));
        assert!(Arc::ptr_eq(&events[0].event_type, &events[1].event_type));
    }

    #[test]
    fn what_is_refused_is_named_for_each_event() {
        let Violations(wrong) = append(&[("a", "A", "x"), ("\0", "A", ""), ("\0", "A", "x")]).unwrap_err();
        let fields: Vec<&str> = wrong.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["events[1].aggregate_id", "events[1].event_type", "events[2].aggregate_id"]);
    }

    #[test]
    fn a_prefix_of_a_filter_is_not_empty_and_there_are_at_most_100() {
        let decoder = Decoder { limits: settings::request_limits(&LimitsConfig::default()) };
        let decode = |aggregate_id_prefixes: Vec<String>| {
            let filter = wire::Filter { aggregate_id_prefixes, ..wire::Filter::default() };
            decoder.filter(Some(filter)).map(|filter| filter.aggregate_id_prefixes)
        };
        let hundred = vec!["arena-".to_owned(); 100];
        assert_eq!(decode(hundred.clone()), Ok(hundred));
        for wrong in [vec!["a".to_owned(); 101], vec!["a".to_owned(), String::new()], vec!["\n".to_owned()]] {
            let Violations(wrong) = decode(wrong).unwrap_err();
            assert_eq!(wrong[0].0, "filter.aggregate_id_prefixes");
        }
    }

    #[test]
    fn reserved_ids_are_read_and_expected_but_not_written() {
        let decoder = Decoder { limits: settings::request_limits(&LimitsConfig::default()) };
        let Violations(wrong) = append(&[("a", "A", "x"), ("aethyr:audit", "A", "x")]).unwrap_err();
        let problem = "must not begin with aethyr:, which the service reserves";
        assert_eq!(wrong, [("events[1].aggregate_id".to_owned(), problem.to_owned())]);
        let snapshot = wire::SaveSnapshotRequest {
            aggregate_id: "aethyr:".to_owned(),
            sequence_number: 1,
            ..wire::SaveSnapshotRequest::default()
        };
        let Violations(wrong) = decoder.snapshot(snapshot).unwrap_err();
        assert_eq!(wrong, [("aggregate_id".to_owned(), problem.to_owned())]);
        assert!(append(&[("aethyr", "A", "x"), ("Aethyr:audit", "A", "x")]).is_ok());

        let load = wire::LoadEventsRequest {
            aggregate_id: "aethyr:audit".to_owned(),
            ..wire::LoadEventsRequest::default()
        };
        assert_eq!(decoder.load(&load).unwrap().aggregate_id.as_str(), "aethyr:audit");
        assert_eq!(decoder.id("aethyr:audit").unwrap().as_str(), "aethyr:audit");
        let event = wire::NewEvent {
            aggregate_id: "a".to_owned(),
            event_type: "x".to_owned(),
            ..wire::NewEvent::default()
        };
        let expecting = wire::AppendEventsRequest {
            events: vec![event],
            expected_sequences: BTreeMap::from([("aethyr:audit".to_owned(), 1)]),
        };
        assert_eq!(decoder.append(expecting).unwrap().expected.len(), 1);
    }
}
