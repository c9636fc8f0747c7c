//! Checks an append against its aggregates: the expected sequence numbers, and the types.
//!
//! Each check is given a function that looks up the head of an aggregate. The head includes the
//! appends before this one.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::append::Append;
use crate::{
    error::{Conflict, StoreError},
    event::{AggregateId, SequenceNumber},
    index::{Head, IndexError},
};

/// The last sequence number and the type of every aggregate of an append.
pub(super) type AggregateHeads = HashMap<AggregateId, (SequenceNumber, Arc<str>)>;

/// Checks the expected sequence numbers.
///
/// # Errors
/// Returns an error for the first aggregate whose last event has a different number, or if `head`
/// fails.
pub(super) fn check_expectations(
    append: &Append,
    mut head: impl FnMut(&AggregateId) -> Result<Option<Head>, IndexError>,
) -> Result<(), StoreError> {
    for (aggregate, expected) in &append.expected {
        let actual = head(aggregate)?.map_or(SequenceNumber(0), |head| head.last);
        if actual != *expected {
            let (aggregate, expected) = (aggregate.clone(), *expected);
            return Err(Conflict::WrongExpectedSequence { aggregate, expected, actual }.into());
        }
    }
    Ok(())
}

/// Checks the aggregate types and returns what was looked up. The type must be given with the
/// aggregate's first event and never changes.
///
/// # Errors
/// Returns an error for the first event whose type is missing or differs, or if `head` fails.
pub(super) fn check_types(
    append: &Append,
    mut head: impl FnMut(&AggregateId) -> Result<Option<Head>, IndexError>,
) -> Result<AggregateHeads, StoreError> {
    let mut heads = AggregateHeads::new();
    for (index, (event, _)) in append.events.iter().enumerate() {
        let given = &event.aggregate_type;
        let field = || format!("events[{index}].aggregate_type");
        let (_, kind) = match heads.entry(event.aggregate_id.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => match head(&event.aggregate_id)? {
                Some(head) => unknown.insert((head.last, head.aggregate_type)),
                None if given.is_empty() => {
                    let problem = "is required for the first event of an aggregate";
                    return Err(StoreError::invalid(field(), problem));
                }
                None => unknown.insert((SequenceNumber(0), given.clone())),
            },
        };
        if !given.is_empty() && given != kind {
            let problem = format!("differs from the type of aggregate {}", event.aggregate_id);
            return Err(StoreError::invalid(field(), problem));
        }
    }
    Ok(heads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequencer::tests::one_event;

    fn head(last: u64) -> Option<Head> {
        Some(Head { last: SequenceNumber(last), aggregate_type: "A".into(), snapshot: None })
    }

    fn of_type(aggregate_type: &str) -> Append {
        let mut append = one_event("room-1");
        append.events[0].0.aggregate_type = aggregate_type.into();
        append
    }

    #[test]
    fn only_the_number_of_the_last_event_is_as_expected() {
        for (last, expected, is_right) in
            [(3, 3, true), (3, 2, false), (3, 4, false), (0, 0, true), (0, 1, false)]
        {
            let room = AggregateId::new("room-1").unwrap();
            let append = Append { expected: vec![(room, SequenceNumber(expected))], ..one_event("room-1") };
            let checked = check_expectations(&append, |_| Ok(head(last).filter(|_| last > 0)));
            match checked {
                Ok(()) => assert!(is_right, "{expected} of {last}"),
                Err(StoreError::Conflict(Conflict::WrongExpectedSequence { actual, .. })) => {
                    assert!(!is_right && actual.0 == last, "{expected} of {last}");
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_first_event_gives_the_type_and_no_other_event_changes_it() {
        for (given, known, is_right) in [
            ("A", None, true),
            ("", None, false),
            ("A", head(1), true),
            ("", head(1), true),
            ("B", head(1), false),
        ] {
            let checked = check_types(&of_type(given), |_| Ok(known.clone()));
            assert_eq!(checked.is_ok(), is_right, "{given:?}");
            if let Ok(heads) = checked {
                let last = known.map_or(SequenceNumber(0), |head| head.last);
                assert_eq!(heads.into_values().collect::<Vec<_>>(), [(last, Arc::<str>::from("A"))]);
            }
        }
        let mut both = of_type("A");
        both.events.extend(of_type("B").events);
        assert!(matches!(check_types(&both, |_| Ok(None)), Err(StoreError::Invalid { .. })));
    }
}
