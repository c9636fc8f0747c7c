//! The machine, and the systems with their versions and settings.

use super::text::{grouped, table};
use crate::{results::Results, row::Row, systems::immudb::IN_FLIGHT_MAX};

pub fn machine(results: &Results) -> String {
    let machine = &results.machine;
    let kind = if results.quick { "A quick run (`--quick`)" } else { "A full run" };
    format!(
        "{kind} of {}, version {} of the service{}. {}, {} cores, {:.0} GiB of memory, Linux {}, {}. One \
         thread appends and syncs 4 KiB {} times per second on this disk. The load generator runs on the \
         same cores.\n",
        results.date,
        env!("CARGO_PKG_VERSION"),
        if results.commit.is_empty() { String::new() } else { format!(" (commit `{}`)", results.commit) },
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.file_system,
        grouped(machine.syncs_per_second.round() as u64),
    )
}

pub fn section(results: &Results) -> String {
    let rows: Vec<_> = Row::ALL
        .into_iter()
        .map(|row| {
            let about = results.about(row);
            let version = match about {
                Some(about) if about.problem.is_none() => about.version.clone(),
                Some(about) => format!("left out: {}", line(about.problem.as_deref().unwrap_or_default())),
                None => "not run".to_owned(),
            };
            vec![row.title().to_owned(), version, sync_policy(row).to_owned(), settings(row)]
        })
        .collect();
    table(&["system", "version", "synced before the response", "settings"], &rows).replace("---:", "---")
}

fn line(problem: &str) -> String {
    let first = problem.lines().next().unwrap_or_default();
    first.replace('|', "/").chars().take(120).collect()
}

fn sync_policy(row: Row) -> &'static str {
    match row {
        Row::AethyrLocal | Row::AethyrEventFiles => "yes: one sync per group of appends",
        Row::AethyrImmudb => "yes: the local log and ImmuDB",
        Row::ImmudbConditional | Row::ImmudbConditionalOurs | Row::ImmudbSet | Row::ImmudbSetOurs => {
            "yes (`--synced`, the default)"
        }
        Row::Umadb => "yes (always)",
        Row::Nats => "yes (`sync_interval: always`; the default is two minutes)",
        Row::MessageDb => "yes (`fsync` and `synchronous_commit`, the defaults)",
    }
}

fn settings(row: Row) -> String {
    match row {
        Row::AethyrLocal => "defaults, `event_files: false`".to_owned(),
        Row::AethyrEventFiles => {
            "defaults, `event_files: true` (at most `event_files_max` 100 000); paused while other systems \
             are measured, because it writes them in the background"
                .to_owned()
        }
        Row::AethyrImmudb => "defaults, `event_files: false`".to_owned(),
        Row::ImmudbConditional => format!(
            "`defaultdb`; `KeyMustNotExist` for each event's key; at most {IN_FLIGHT_MAX} concurrent calls, \
             ImmuDB's limit"
        ),
        Row::ImmudbConditionalOurs => {
            "the same in a database with `syncFrequency` 0 and `maxTxEntries` 1024, as `src/immudb` \
             creates it"
                .to_owned()
        }
        Row::ImmudbSet => format!("`defaultdb`, no precondition; at most {IN_FLIGHT_MAX} concurrent calls"),
        Row::ImmudbSetOurs => "the same in a database as `src/immudb` creates it".to_owned(),
        Row::Umadb => {
            "defaults; aggregates are tags; the condition: no event with the tag after the last known \
             position"
                .to_owned()
        }
        Row::Nats => "one stream with file storage, one replica, `allow_atomic`, `allow_direct`, \
             `batch.max_inflight_per_stream` 1 000; aggregates are subjects, the expected version is \
             `Nats-Expected-Last-Subject-Sequence`, event ids are `Nats-Msg-Id`"
            .to_owned(),
        Row::MessageDb => {
            "`max_connections` 300, otherwise defaults; one connection per caller; `write_message` with \
             `expected_version`; one category, in which message-db serializes writes; the payload is \
             base64 in JSON, of the same length"
                .to_owned()
        }
    }
}
