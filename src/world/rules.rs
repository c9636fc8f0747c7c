//! Commands, and the rules that decide them: what a command leads to, or why it is rejected.
//!
//! Pure: no store, no disk, no clock. [`decide`](decide::decide) examines a
//! [`WorldView`](world_view::WorldView), and returns the events or what else it needs to know.

mod attributes;
pub mod capacity;
pub mod command;
pub mod decide;
pub mod moving;
pub mod refusal;
pub mod world_view;
