//! Replays events into states: an aggregate as it is or was, its history, and what changed in the
//! world between two moments.
//!
//! Everything here is derived from the log, which stays the only source of truth. Appending events
//! is left to the commands.

pub mod changes;
pub mod difference;
pub mod entries;
pub mod rehydration;
pub mod repairs;
pub mod replay;
pub mod states;
