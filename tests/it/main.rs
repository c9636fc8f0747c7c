//! Tests of the service and its parts, one module per topic.
//!
//! They need Go once, to build a real ImmuDB, unless the right version is in the PATH.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(missing_docs, unreachable_pub, reason = "a program has no API")]

mod access;
mod anchoring;
mod appending;
mod auditing;
mod bad_input;
mod clocks;
mod copy;
mod corpus;
mod crash;
mod crash_points;
mod damage;
mod divergence;
mod documents;
mod doubt;
mod failing_disk;
mod field_names;
mod following;
mod immudb_client;
mod immudb_proofs;
mod immudb_tls;
mod import_aethyr;
mod loading;
mod lost_answer;
mod mending;
mod messages;
mod notes;
mod operating;
mod outage;
mod permissions;
mod phrases;
mod places;
mod proving;
mod refusals;
mod refusing;
mod repairing;
mod resend;
mod sharing;
mod signals;
mod slow_immudb;
mod smaller_messages;
mod supervising;
mod tampering;
mod tidy;
mod two_in_flight;
mod wire;
mod witnessing;
mod world;

use aethyr_test_support as support;
