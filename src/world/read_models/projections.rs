//! Projections: from events to rows that can be queried.
//!
//! Each projection owns some tables of the read models. It receives the events of the aggregate
//! types that it wants in the order of their positions, each exactly once, and changes only its own
//! rows. To add one, write a file next to these and add it to [`all`].

use rusqlite::{Connection, Result};
use time::OffsetDateTime;

use crate::{
    event::{RecordedEvent, Timestamp},
    world::model::event::WorldEvent,
};

mod activity;
mod game_objects;
mod inventories;
mod players;
mod rooms;

/// Turns events into rows.
pub trait Projection: Send + Sync {
    /// Its name in the table `projections`.
    fn name(&self) -> &'static str;

    /// The version. Increment it with every change to the tables or to what the projection makes of
    /// events; the read models are then rebuilt.
    fn version(&self) -> u32;

    /// The aggregate types whose events the projection wants.
    fn aggregate_types(&self) -> &'static [&'static str];

    /// The tables of the projection.
    fn tables(&self) -> &'static [&'static str];

    /// The statements that create its tables, indexes and views.
    fn schema(&self) -> &'static str;

    /// Applies an event.
    ///
    /// # Errors
    /// Returns an error if the database fails. An event that cannot be applied (for example,
    /// because it names a missing row) is skipped.
    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()>;
}

/// An event as projections see it.
#[derive(Debug, Clone, Copy)]
pub struct ProjectedEvent<'e> {
    /// The event as it is stored.
    pub recorded: &'e RecordedEvent,
    /// The decoded event, or `None` if it is not an event of the world or cannot be read.
    pub happened: Option<&'e WorldEvent>,
}

impl ProjectedEvent<'_> {
    /// Returns the id of the aggregate.
    pub fn id(&self) -> &str {
        self.recorded.event.aggregate_id.as_str()
    }

    /// Returns the aggregate type.
    pub fn aggregate_type(&self) -> &str {
        &self.recorded.event.aggregate_type
    }

    /// Returns the sequence number in the aggregate, as an SQLite integer.
    pub fn sequence(&self) -> i64 {
        self.recorded.sequence.0.cast_signed()
    }

    /// Returns the time of recording as text that sorts, and that the functions of SQLite can read.
    pub fn time(&self) -> String {
        time_text(self.recorded.recorded_at)
    }
}

/// The aggregate types of the world.
pub const OF_THE_WORLD: &[&str] = &["GameObject", "Player", "Room"];

/// Returns all projections.
pub fn all() -> Vec<Box<dyn Projection>> {
    vec![
        Box::new(game_objects::GameObjects),
        Box::new(players::Players),
        Box::new(rooms::Rooms),
        Box::new(inventories::Inventories),
        Box::new(activity::Activity),
    ]
}

/// Formats a time as `2026-11-25 09:26:00.123456`, in UTC.
fn time_text(at: Timestamp) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp(at.seconds()) else { return String::new() };
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let micros = at.nanos() / 1000;
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_texts_that_sort() {
        let text = |seconds, nanos| time_text(Timestamp::new(seconds, nanos).unwrap());
        assert_eq!(text(0, 0), "1970-01-01 00:00:00.000000");
        assert_eq!(text(1_700_000_000, 5_999), "2023-11-14 22:13:20.000005");
        assert!(text(-1, 999_999_999) < text(0, 0));
    }
}
