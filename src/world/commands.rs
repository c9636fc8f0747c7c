//! Executes commands.
//!
//! Loads the objects, has the commands decided, and appends their events unless anything that the
//! decision examined has changed. The rules themselves are left to `rules`.

mod aggregate_locks;
pub mod call;
pub mod executed;
pub mod handler;
mod names;
pub mod planned;
pub mod planning;
