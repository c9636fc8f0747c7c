//! The aggregates of the world, and how each event changes them.
//!
//! Pure: states and events in, states out. No store, no disk, no clock.

pub mod aggregate;
pub mod event;
pub mod game_object;
pub mod password;
pub mod player;
pub mod player_name;
pub mod room;
pub mod rule;
pub mod size;
