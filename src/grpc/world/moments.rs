//! The moments of queries: after an event, after a position, or at a time.

use crate::{
    event::{Position, SequenceNumber},
    grpc::{event_store::decode::timestamp, violations::Violations, wire::world as wire},
    world::history::{difference::WorldMoment, replay::Moment},
};

/// Decodes a moment in the history of one aggregate.
pub(super) fn moment(field: &str, moment: Option<wire::Moment>, wrong: &mut Violations) -> Option<Moment> {
    use wire::moment::Moment as Wire;
    match moment.and_then(|moment| moment.moment) {
        None => Some(Moment::Now),
        Some(Wire::SequenceNumber(0)) => {
            wrong.add(format_args!("{field}.sequence_number"), "must be at least 1");
            None
        }
        Some(Wire::SequenceNumber(number)) => Some(Moment::Sequence(SequenceNumber(number))),
        Some(Wire::Position(position)) => Some(Moment::Position(Position(position))),
        Some(Wire::Time(time)) => {
            timestamp(format_args!("{field}.time"), Some(time), wrong).map(Moment::Time)
        }
    }
}

/// Decodes a moment of the whole world. `absent` is the default.
pub(super) fn world_moment(
    field: &str,
    moment: Option<wire::Moment>,
    absent: WorldMoment,
    wrong: &mut Violations,
) -> Option<WorldMoment> {
    use wire::moment::Moment as Wire;
    match moment.and_then(|moment| moment.moment) {
        None => Some(absent),
        Some(Wire::SequenceNumber(_)) => {
            wrong.add(
                format_args!("{field}.sequence_number"),
                "applies to a single aggregate, not to the world; use position or time",
            );
            None
        }
        Some(Wire::Position(position)) => Some(WorldMoment::Position(Position(position))),
        Some(Wire::Time(time)) => {
            timestamp(format_args!("{field}.time"), Some(time), wrong).map(WorldMoment::Time)
        }
    }
}
