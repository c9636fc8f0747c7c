//! Projections: from events to rows that can be asked.
//!
//! Each projection owns some tables of the read models, sees the events of the aggregate types that it wants in the
//! order of their positions, each exactly once, and changes nothing but its own rows. To add one: write a file
//! beside these, and name it in [`all`].

use rusqlite::{Connection, Result};
use time::OffsetDateTime;

use super::event::WorldEvent;
use crate::event::{RecordedEvent, Timestamp};

mod activity;
mod game_objects;
mod inventories;
mod players;
mod rooms;

/// From events to rows.
pub trait Projection: Send + Sync {
    /// Its name in the table `projections`.
    fn name(&self) -> &'static str;

    /// To be raised with every change of its tables or of what it makes of events: the read models are made anew then.
    fn version(&self) -> u32;

    /// The aggregate types whose events it wants.
    fn aggregate_types(&self) -> &'static [&'static str];

    /// Its tables.
    fn tables(&self) -> &'static [&'static str];

    /// The statements that make its tables, indexes and views.
    fn schema(&self) -> &'static str;

    /// Takes an event in.
    ///
    /// # Errors
    /// The database's. What an event can't do (it names what is not there, say) is passed over.
    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()>;
}

/// An event as projections see it.
#[derive(Debug, Clone, Copy)]
pub struct ProjectedEvent<'e> {
    pub recorded: &'e RecordedEvent,
    /// What happened, where it is an event of the world that can be read.
    pub happened: Option<&'e WorldEvent>,
}

impl ProjectedEvent<'_> {
    pub fn id(&self) -> &str {
        self.recorded.event.aggregate_id.as_str()
    }

    pub fn aggregate_type(&self) -> &str {
        &self.recorded.event.aggregate_type
    }

    /// Its number in the aggregate, as the database has numbers.
    pub fn sequence(&self) -> i64 {
        self.recorded.sequence.0.cast_signed()
    }

    /// When it was recorded, as text that sorts and that SQLite's own functions read.
    pub fn time(&self) -> String {
        time_text(self.recorded.recorded_at)
    }
}

/// The aggregate types of the world.
pub const OF_THE_WORLD: &[&str] = &["GameObject", "Player", "Room"];

/// All of them.
pub fn all() -> Vec<Box<dyn Projection>> {
    vec![
        Box::new(game_objects::GameObjects),
        Box::new(players::Players),
        Box::new(rooms::Rooms),
        Box::new(inventories::Inventories),
        Box::new(activity::Activity),
    ]
}

/// `2026-11-25 09:26:00.123456`, in UTC.
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
