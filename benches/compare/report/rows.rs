//! What was run, with what settings, and on what.

use super::text::{grouped, table};
use crate::{
    results::Results,
    rows::{Row, immudb::IN_FLIGHT_MAX},
};

pub fn machine(results: &Results) -> String {
    let machine = &results.machine;
    let kind = if results.quick { "A quick run (`--quick`)" } else { "A full run" };
    format!(
        "{kind} of {}, version {} of the service{}. {}, {} cores, {:.0} GiB of memory, Linux {}, {}. A record of 4 KiB is \
         written and synced to that disk {} times a second by one thread. The load runs on the same cores.\n",
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
    table(&["row", "version", "synced before the answer", "settings"], &rows).replace("---:", "---")
}

fn line(problem: &str) -> String {
    let first = problem.lines().next().unwrap_or_default();
    first.replace('|', "/").chars().take(120).collect()
}

fn sync_policy(row: Row) -> &'static str {
    match row {
        Row::AethyrLocal | Row::AethyrEventFiles => "yes: one sync for a group of appends",
        Row::AethyrImmudb => "yes: the local log, and ImmuDB's own syncs",
        Row::ImmudbConditional | Row::ImmudbConditionalOurs | Row::ImmudbSet | Row::ImmudbSetOurs => {
            "yes (`--synced`, its default)"
        }
        Row::Umadb => "yes (always)",
        Row::Nats => "yes (`sync_interval: always`; its default is every two minutes)",
        Row::MessageDb => "yes (`fsync` and `synchronous_commit`, its defaults)",
    }
}

fn settings(row: Row) -> String {
    match row {
        Row::AethyrLocal => "defaults, `event_files: false`".to_owned(),
        Row::AethyrEventFiles => {
            "defaults, `event_files: true` (up to `event_files_max` 100 000); it sleeps while others have their \
             turn, since it writes them in the background"
                .to_owned()
        }
        Row::AethyrImmudb => "defaults, `event_files: false`".to_owned(),
        Row::ImmudbConditional => {
            format!("`defaultdb`; `KeyMustNotExist` on each event's key; at most {IN_FLIGHT_MAX} calls at a time, which is its limit")
        }
        Row::ImmudbConditionalOurs => {
            "the same on a database with `syncFrequency` 0, `maxTxEntries` 1024, as `src/immudb` makes it".to_owned()
        }
        Row::ImmudbSet => format!("`defaultdb`, no precondition; at most {IN_FLIGHT_MAX} calls at a time"),
        Row::ImmudbSetOurs => "the same on a database as `src/immudb` makes it".to_owned(),
        Row::Umadb => "defaults; an aggregate is a tag, the condition: no event with it after the last known position".to_owned(),
        Row::Nats => {
            "one stream in files, one replica, `allow_atomic`, `allow_direct`, `batch.max_inflight_per_stream` 1 000; an \
             aggregate is a subject, the expectation `Nats-Expected-Last-Subject-Sequence`, ids are `Nats-Msg-Id`"
                .to_owned()
        }
        Row::MessageDb => {
            "`max_connections` 300, else defaults; one connection a caller; `write_message` with \
             `expected_version`; one category, whose writes message-db puts one after the other; the payload is \
             base64 in JSON, of the same length"
                .to_owned()
        }
    }
}
