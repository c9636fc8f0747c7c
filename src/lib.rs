//! The event store that game servers trust with their world.
//!
//! ```text
//! game server --gRPC--> grpc --> store --> sequencer --> log --> answer (Fallback, Migrating, LocalOnly, Suspect)
//!                                  ^                     |  |
//!                                  |                     |  +--> index (what can be looked up)
//!                                  +-- loads, reads -----+
//!                                                        v
//!                                                    forwarder --Set--> ImmuDB --> answer (Connected)
//! ```
//!
//! There is one way through, in every state: fallback is an answer that waits for less, and migration is
//! the forwarder catching up. The modules, in the order of that way:
//!
//! - [`server`] puts the parts together, runs them and takes them down; [`cli`] is the command line,
//!   [`config`] and [`telemetry`] what it reads and writes.
//! - [`grpc`] turns requests into values of [`event`] and answers into messages.
//! - [`store`] says what each call means; [`stats`] counts; [`history`] reads what is stored.
//! - [`sequencer`] judges, numbers and stores appends in groups.
//! - [`log`] keeps them; [`index`] finds them again; [`storage`] opens both.
//! - [`forwarder`] carries the log into ImmuDB, over [`immudb`], with the delays of [`retry`].
//! - [`event_files`] prints out what ImmuDB does not have yet.
//! - [`world`] is the game world on top of the store: commands, aggregates, projections. Nothing of the store knows it.
//! - [`refusals`] counts what is refused, and has it logged once a minute.
//! - [`shared_limit`] is for limits of which no caller takes the whole.
//! - [`priority`] is for threads whose work may wait.
//! - [`crash_point`] names places at which a test can have the process die.
//!
//! The promises of `docs/guarantees.md`, and the tests (under `tests/it`, unless it is said otherwise) that hold them:
//!
//! | promise | held by |
//! |---|---|
//! | 1 never lost | `outage`, `crash`, `crash_points`, `copy`, `mending`, `repairing`, `damage`, `divergence`, `failing_disk`, `log::tests` |
//! | 2 exactly once | `appending`, `resend`, `refusing`, `failing_disk`, `lost_answer`, `two_in_flight`, `sequencer::tests` |
//! | 3 numbers without gap | `appending`, `crash`, `sequencer::tests` |
//! | 4 all or nothing | `appending`, `crash`, `sequencer::tests` |
//! | 5 expectations that can't be raced | `appending`, `sequencer::tests` |
//! | 6 one order | `following`, `copy`, `index::tests` |
//! | 7 reads go on | `outage`, `loading`, `failing_disk` |
//! | 8 an outage costs no failed call | `outage`, `lost_answer`, `two_in_flight`, `slow_immudb`, `smaller_messages` |
//! | 9 tampering shows | `doubt` (rolled back, emptied, another writer, foreign transactions); proofs come later |
//! | 10 everything has a limit | `bad_input`, `operating`, `sharing`, `wire` |

pub mod cli;
pub mod clock;
pub mod config;
pub mod crash_point;
pub mod event;
pub mod event_files;
pub mod forwarder;
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod history;
pub mod immudb;
pub mod index;
pub mod log;
pub mod printable;
pub mod priority;
pub mod progress;
pub mod refusals;
pub mod retry;
pub mod secret;
pub mod sequencer;
pub mod server;
pub mod shared_limit;
pub mod stats;
pub mod storage;
pub mod store;
pub mod telemetry;
pub mod world;
