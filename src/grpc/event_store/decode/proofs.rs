//! Decodes the requests for proofs.

use super::{Decoder, Violations, fields::stored_id};
use crate::{
    event::{EventId, SequenceNumber},
    grpc::wire,
    store::EventRef,
};

/// Which event is to be proven, and whether the proof has its record.
#[derive(Debug)]
pub(crate) struct ProofRequest {
    pub event: EventRef,
    pub with_record: bool,
}

/// The sizes of two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConsistencyRequest {
    /// At least 1.
    pub from: u64,
    /// `None` stands for the newest checkpoint.
    pub to: Option<u64>,
}

impl Decoder {
    /// Decodes a request for the proof of an event.
    ///
    /// # Errors
    /// Returns an error that names every invalid field.
    pub(crate) fn proof(&self, request: &wire::GetProofRequest) -> Result<ProofRequest, Violations> {
        let wire::GetProofRequest { aggregate_id, sequence_number, event_id, without_record } = request;
        let mut wrong = Violations::default();
        let event = if event_id.is_empty() {
            if *sequence_number == 0 {
                wrong.add("sequence_number", "must be at least 1, unless event_id is given");
            }
            let id = stored_id("aggregate_id", aggregate_id, &mut wrong);
            id.map(|id| EventRef::Numbered(id, SequenceNumber(*sequence_number)))
        } else {
            if !aggregate_id.is_empty() || *sequence_number > 0 {
                wrong.add("event_id", "cannot be combined with aggregate_id and sequence_number");
            }
            let id = EventId::parse(event_id);
            if id.is_none() {
                wrong.add("event_id", "is not a UUID");
            }
            id.map(EventRef::Id)
        };
        wrong.none_or(event.map(|event| ProofRequest { event, with_record: !without_record }))
    }

    /// Decodes a request for a proof of consistency.
    ///
    /// # Errors
    /// Returns an error that names every invalid field.
    pub(crate) fn consistency(
        &self,
        request: wire::GetConsistencyRequest,
    ) -> Result<ConsistencyRequest, Violations> {
        let wire::GetConsistencyRequest { from_size: from, to_size } = request;
        let mut wrong = Violations::default();
        if from == 0 {
            wrong.add("from_size", "must be at least 1");
        }
        let to = (to_size > 0).then_some(to_size);
        if to.is_some_and(|to| from > to) {
            wrong.add("from_size", "is larger than to_size");
        }
        wrong.none_or(Some(ConsistencyRequest { from, to }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::LimitsConfig, server::settings};

    fn decoder() -> Decoder {
        Decoder { limits: settings::request_limits(&LimitsConfig::default()) }
    }

    fn fields(Violations(wrong): Violations) -> Vec<String> {
        wrong.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn an_event_is_given_in_one_of_two_ways() {
        let request = |aggregate: &str, sequence_number, id: &str| wire::GetProofRequest {
            aggregate_id: aggregate.to_owned(),
            sequence_number,
            event_id: id.to_owned(),
            without_record: true,
        };
        let id = EventId::random();
        let decode = |request| decoder().proof(&request).map_err(fields);
        let numbered = decode(request("aethyr:audit", 7, "")).unwrap();
        assert!(matches!(numbered.event, EventRef::Numbered(_, SequenceNumber(7))));
        assert!(!numbered.with_record);
        let by_id = decode(request("", 0, &id.to_string())).unwrap();
        assert!(matches!(by_id.event, EventRef::Id(found) if found == id));
        for (wrong, expected) in [
            (request("", 0, ""), vec!["sequence_number", "aggregate_id"]),
            (request("room-1", 0, ""), vec!["sequence_number"]),
            (request("room-1", 0, &id.to_string()), vec!["event_id"]),
            (request("", 1, "room-1"), vec!["event_id", "event_id"]),
        ] {
            assert_eq!(decode(wrong).unwrap_err(), expected);
        }
    }

    #[test]
    fn the_older_tree_is_not_the_larger_one() {
        let decode = |from_size, to_size| {
            decoder().consistency(wire::GetConsistencyRequest { from_size, to_size }).map_err(fields)
        };
        assert_eq!(decode(3, 0), Ok(ConsistencyRequest { from: 3, to: None }));
        assert_eq!(decode(3, 3), Ok(ConsistencyRequest { from: 3, to: Some(3) }));
        assert_eq!(decode(4, 3), Err(vec!["from_size".to_owned()]));
        assert_eq!(decode(0, 0), Err(vec!["from_size".to_owned()]));
    }

    #[test]
    fn a_verified_load_has_no_snapshot() {
        let load = |from_snapshot, verified| {
            let request = wire::LoadEventsRequest {
                aggregate_id: "room-1".to_owned(),
                from_snapshot,
                verified,
                ..wire::LoadEventsRequest::default()
            };
            decoder().load(&request).map(|_| ()).map_err(fields)
        };
        assert_eq!(load(true, true), Err(vec!["from_snapshot".to_owned()]));
        assert_eq!((load(true, false), load(false, true)), (Ok(()), Ok(())));
    }
}
