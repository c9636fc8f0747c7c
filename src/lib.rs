//! A durable event store for game servers.
//!
//! ```text
//! client --> grpc --> store --> sequencer --> log --> answer (Fallback, Migrating, LocalOnly,
//!                       ^                     | |             Suspect)
//!                       |                     | +--> index (lookups)
//!                       +-- loads, reads -----+
//!                                             v
//!                                        replication --Set--> ImmuDB --> answer (Connected)
//! ```
//!
//! There is one data path in every state. In fallback, the answer waits for less; migration is the
//! forwarder catching up. The modules, in the order of that path:
//!
//! - [`server`] assembles the service, runs it and shuts it down. [`cli`] is the command line.
//! - [`config`] reads the configuration, and [`telemetry`] writes the log lines.
//! - [`grpc`] turns requests into values of [`event`], and results into messages.
//! - [`store`] defines what each call means, and [`history`] reads stored events.
//! - [`sequencer`] checks, numbers and stores appends in groups, at the time given by `clock`.
//! - [`log`] stores the groups, [`index`] finds their records again, and [`storage`] opens both.
//! - `replication` carries the log into ImmuDB, over [`immudb`], with the delays of `retry`.
//! - `transparency` signs checkpoints of the history and publishes them, over [`witness`] among
//!   others, and makes the proofs that [`proof_file`] verifies.
//! - [`event_files`] writes the events that ImmuDB does not have yet as readable files.
//! - `aethyr_import` reads events that Aethyr's own event store has written.
//! - [`world`] is the game world on top of the store: commands, aggregates, projections. No module
//!   of the store depends on it.
//!
//! Modules that the others share:
//!
//! - [`error`] has the errors of the store, and `refusals` counts rejected calls and logs each
//!   reason at most once a minute.
//! - [`access`] has identities, roles and tokens, and decides what a caller may do. `access_log`
//!   writes down who was refused what.
//! - `shared_limit` has limits that no single client can use up, and `rate_limit` has rates.
//!   `usage` counts what each identity has stored.
//! - `merkle` has hash trees and their proofs, and [`tree`] keeps the one over the events of the
//!   log. [`proof`] has the formats in which a signed root and a proof leave the service.
//! - `stats` has the counters, and `progress` reports long operations.
//! - `durable_file` replaces small files next to the log as a whole.
//! - `printable` and [`secret`] keep unsafe text and passwords out of terminals and logs.
//! - `threads` starts named threads and lowers the priority of those whose work may wait.
//! - [`crash_point`] names points at which a test can abort the process. `fuzzing` has the entry
//!   points of the fuzz targets, and exists only with the feature of that name.
//!
//! The promises of `docs/guarantees.md`, and the tests that cover them (in `tests/it`, except
//! `…::tests`):
//!
//! | promise | covered by |
//! |---|---|
//! | 1 never lost | `outage`, `crash`, `crash_points`, `copy`, `mending`, `repairing`, `damage` |
//! | | `divergence`, `failing_disk`, `log::tests` |
//! | 2 exactly once | `appending`, `resend`, `refusing`, `failing_disk`, `lost_answer` |
//! | | `two_in_flight`, `sequencer::tests` |
//! | 3 numbers without gaps | `appending`, `crash`, `sequencer::tests` |
//! | 4 all or nothing | `appending`, `crash`, `sequencer::tests` |
//! | 5 expectations that cannot be raced | `appending`, `sequencer::tests` |
//! | 6 one order | `following`, `copy`, `index::tests` |
//! | 7 reads continue | `outage`, `loading`, `failing_disk` |
//! | 8 an outage fails no call | `outage`, `lost_answer`, `two_in_flight`, `slow_immudb` |
//! | | `smaller_messages` |
//! | 9 tampering shows | `tampering`, `doubt`, `immudb_proofs`, `auditing`, `proving` |
//! | | `anchoring`, `witnessing` |
//! | 10 everything has a limit | `bad_input`, `operating`, `sharing`, `wire` |

pub mod access;
mod access_log;
mod aethyr_import;
pub mod cli;
mod clock;
pub mod config;
pub mod crash_point;
mod durable_file;
pub mod error;
pub mod event;
pub mod event_files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod history;
pub mod immudb;
pub mod index;
pub mod log;
mod merkle;
mod printable;
mod progress;
pub mod proof;
pub mod proof_file;
mod rate_limit;
mod refusals;
mod replication;
mod retry;
pub mod secret;
pub mod sequencer;
pub mod server;
mod shared_limit;
mod stats;
pub mod storage;
pub mod store;
pub mod telemetry;
mod threads;
mod transparency;
pub mod tree;
mod usage;
pub mod witness;
pub mod world;
