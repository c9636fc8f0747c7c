//! The tables of the report.

use super::text::{NONE, grouped, mebibytes, milliseconds, rate, table};
use crate::{
    measure::{
        appends::Turn,
        followers,
        loads::Load,
        outage::{Backlog, Outage},
    },
    results::{Appended, Results},
    row::Row,
    statistics::Percentiles,
    work::{Spread, Work},
};

const CALLERS: [usize; 4] = [1, 8, 64, 256];

pub fn appends(results: &Results) -> String {
    let parts = [rates(results), conflicts(results), costs(results)];
    format!("![Conditional appends](benchmarks/appends.svg)\n{}", parts.concat())
}

fn rates(results: &Results) -> String {
    let mut text = String::new();
    let parts = [
        ("Conditional appends, 10 000 aggregates, 1 event per call, events/s:", Spread::Conditional, 1),
        ("Conditional appends, 10 000 aggregates, 10 events per call, events/s:", Spread::Conditional, 10),
        ("Conditional appends, 10 000 aggregates, 100 events per call, events/s:", Spread::Conditional, 100),
        ("Unconditional appends, 10 000 aggregates, 1 event per call, events/s:", Spread::Unconditional, 1),
        (
            "Unconditional appends, 10 000 aggregates, 100 events per call, events/s:",
            Spread::Unconditional,
            100,
        ),
        ("Unconditional appends, one aggregate, 1 event per call, events/s:", Spread::OneAggregate, 1),
        ("Unconditional appends, one aggregate, 100 events per call, events/s:", Spread::OneAggregate, 100),
        (
            "Conditional appends, 10 000 aggregates, one JSON event per call (256 bytes of compressible \
             text), events/s:",
            Spread::Json,
            1,
        ),
        (
            "Conditional appends, one aggregate, one event per call, retried after a conflict with the \
             newest known version, events/s:",
            Spread::Contended,
            1,
        ),
    ];
    for (title, spread, events) in parts {
        let works = CALLERS.map(|callers| Work { spread, callers, events });
        let done: Vec<Work> =
            works.into_iter().filter(|work| results.appends.iter().any(|a| a.work == *work)).collect();
        if done.is_empty() {
            continue;
        }
        let heads: Vec<String> = done.iter().map(|work| format!("{} callers", work.callers)).collect();
        let heads: Vec<&str> =
            ["system"].into_iter().chain(heads.iter().map(|head| head.trim_end_matches(' '))).collect();
        let rows = each_row(results, |row| {
            done.iter()
                .map(|work| results.appended(row, *work).map_or(NONE.to_owned(), |a| rate(a.rate())))
                .collect()
        });
        text.push_str(&format!("\n{title}\n\n{}", table(&heads, &rows).replace("| 1 callers", "| 1 caller")));
    }
    text
}

fn conflicts(results: &Results) -> String {
    let conflicts = each_row(results, |row| {
        let work = Work { spread: Spread::Contended, callers: 8, events: 1 };
        let each = |turn: &Turn| turn.conflicts as f64 / turn.events.max(1) as f64;
        vec![
            results.appended(row, work).map_or(NONE.to_owned(), |found| format!("{:.2}", found.median(each))),
        ]
    });
    format!("\nConflicts per stored append:\n\n{}", table(&["system", "8 callers"], &conflicts))
}

fn costs(results: &Results) -> String {
    let rows = each_row(results, |row| {
        let work = |spread| Work { spread, callers: 64, events: 1 };
        let appended = results
            .appended(row, work(Spread::Conditional))
            .or_else(|| results.appended(row, work(Spread::Unconditional)));
        appended.map_or(vec![NONE.to_owned(); 6], costs_of)
    });
    let head = [
        "system",
        "server cores",
        "server µs/event",
        "client µs/call",
        "p50, ms",
        "p99, ms",
        "slowest and fastest round, events/s",
    ];
    format!(
        "\nCost with 64 callers and one event per call (unconditional for plain `Set`):\n\n{}",
        table(&head, &rows)
    )
}

fn costs_of(appended: &Appended) -> Vec<String> {
    let mut rates: Vec<f64> = appended.turns.iter().map(|turn| turn.rate()).collect();
    rates.sort_by(f64::total_cmp);
    let range = format!(
        "{} – {}",
        rate(rates.first().copied().unwrap_or(0.0)),
        rate(rates.last().copied().unwrap_or(0.0))
    );
    vec![
        format!("{:.2}", appended.median(|turn| turn.cpu_seconds / turn.seconds)),
        format!("{:.1}", appended.median(|turn| turn.cpu_seconds * 1e6 / turn.events as f64)),
        format!("{:.1}", appended.median(|turn| turn.load_cpu_seconds * 1e6 / turn.events as f64)),
        milliseconds(appended.median(|turn| turn.latency.p50)),
        milliseconds(appended.median(|turn| turn.latency.p99)),
        range,
    ]
}

/// Returns a line for each system, except for those that do not have this workload.
fn each_row(results: &Results, cells: impl Fn(Row) -> Vec<String>) -> Vec<Vec<String>> {
    let line = |row: Row| {
        let problem = results.about(row).is_none_or(|about| about.problem.is_some());
        let cells = cells(row);
        if cells.iter().all(|cell| cell == NONE) && !problem {
            return None;
        }
        Some([row.title().to_owned()].into_iter().chain(cells).collect())
    };
    Row::ALL.into_iter().filter_map(line).collect()
}

fn percentiles(found: &Percentiles) -> Vec<String> {
    [found.p50, found.p90, found.p99, found.p999, found.max].map(milliseconds).to_vec()
}

pub fn latency(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .latencies
        .iter()
        .map(|found| {
            let head = [found.row.title().to_owned(), rate(found.calls_per_second)];
            head.into_iter().chain(percentiles(&found.latency)).collect()
        })
        .collect();
    let head = ["system", "appends/s", "p50, ms", "p90", "p99", "p99.9", "max"];
    format!("![Latencies](benchmarks/latency.svg)\n\n{}", table(&head, &rows))
}

pub fn disk(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .disk
        .iter()
        .map(|disk| {
            let bytes = disk.bytes as f64 / disk.events.max(1) as f64;
            vec![disk.row.title().to_owned(), grouped(disk.events), mebibytes(disk.bytes), rate(bytes)]
        })
        .collect();
    table(&["system", "events", "MiB", "bytes/event"], &rows)
}

pub fn loads(results: &Results) -> String {
    let mut kinds: Vec<(usize, bool)> =
        results.loads.iter().map(|load| (load.events, load.from_snapshot)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut rows = Vec::new();
    for (events, from_snapshot) in kinds {
        let same = |load: &&Load| load.events == events && load.from_snapshot == from_snapshot;
        let found: Vec<&Load> = results.loads.iter().filter(same).collect();
        for one in found.iter().filter(|load| load.callers == 1) {
            let Some(eight) = found.iter().find(|load| load.row == one.row && load.callers == 8) else {
                continue;
            };
            let from = if from_snapshot { ", from a snapshot" } else { "" };
            rows.push(vec![
                format!("{} events{from}", grouped(events as u64)),
                one.row.title().to_owned(),
                rate(one.loads_per_second),
                rate(one.events_per_second),
                milliseconds(one.latency.p50),
                milliseconds(one.latency.p99),
                rate(eight.loads_per_second),
                rate(eight.events_per_second),
                format!("{:.2}", eight.server_cpu_seconds_per_event * 1e6),
            ]);
        }
    }
    let head = [
        "aggregate of",
        "system",
        "1 caller: loads/s",
        "events/s",
        "p50, ms",
        "p99, ms",
        "8 callers: loads/s",
        "events/s",
        "server µs/event",
    ];
    format!("![Loads of 1 000 events](benchmarks/loads.svg)\n\n{}", table(&head, &rows))
}

pub fn whole_order(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .whole_orders
        .iter()
        .map(|whole| vec![whole.row.title().to_owned(), grouped(whole.events), rate(whole.events_per_second)])
        .collect();
    table(&["system", "events stored", "events/s"], &rows)
}

pub fn mixed(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .mixed
        .iter()
        .map(|found| {
            let rates = [rate(found.loads_per_second), rate(found.appends_per_second)];
            let [load, append] = [&found.load, &found.append];
            let times = [load.p50, load.p99, append.p50, append.p99].map(milliseconds);
            [found.row.title().to_owned()].into_iter().chain(rates).chain(times).collect()
        })
        .collect();
    let head = ["system", "loads/s", "appends/s", "load p50, ms", "p99", "append p50, ms", "p99"];
    table(&head, &rows)
}

pub fn followers(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .followers
        .iter()
        .map(|found| {
            let head = [found.row.title().to_owned(), found.followers.to_string()];
            let cores = [format!("{:.2}", found.server_cores)];
            head.into_iter().chain(percentiles(&found.delay)).chain(cores).collect()
        })
        .collect();
    let head = ["system", "followers", "p50, ms", "p90", "p99", "p99.9", "max", "server cores"];
    format!("At {} appends/s:\n\n{}", grouped(followers::PACE as u64), table(&head, &rows))
}

pub fn growth(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .growth
        .iter()
        .map(|stage| {
            vec![
                grouped(stage.events),
                rate(stage.appends_per_second),
                rate(stage.fill_events_per_second),
                milliseconds(stage.load.p50),
                format!(
                    "{:.2}, {:.2}, {}",
                    stage.start_seconds,
                    stage.start_after_crash_seconds,
                    stage.cold_start_seconds.map_or(NONE.to_owned(), |seconds| format!("{seconds:.2}"))
                ),
                format!("{} ({})", milliseconds(stage.stats_mean_ms), milliseconds(stage.stats_max_ms)),
                format!(
                    "{}, {}",
                    mebibytes(stage.resident_bytes_at_start),
                    mebibytes(stage.resident_bytes_after_appends)
                ),
                format!("{:.2}", stage.disk_ratio()),
            ]
        })
        .collect();
    let head = [
        "events stored",
        "appends/s, 64 callers",
        "fill, events/s",
        "load of 1 000 events, ms",
        "start: clean, after a crash, cold page cache, s",
        "`Stats` mean (max), ms",
        "memory after the start, after appends, MiB",
        "disk / encoded events",
    ];
    format!("![Growth](benchmarks/growth.svg)\n\n{}", table(&head, &rows))
}

pub fn outage(results: &Results) -> String {
    let name = |backlog| match backlog {
        Backlog::FewAggregates => "16 aggregates",
        Backlog::AggregateEach => "one aggregate per event",
    };
    let heads: Vec<&str> =
        [""].into_iter().chain(results.outages.iter().map(|outage| name(outage.backlog))).collect();
    let line = |what: &str, of: &dyn Fn(&Outage) -> String| {
        [what.to_owned()].into_iter().chain(results.outages.iter().map(of)).collect::<Vec<String>>()
    };
    let rows = [
        line("appends/s before the outage, 64 callers", &|outage| rate(outage.rate_before)),
        line("appends/s during the outage, median of 250 ms", &|outage| rate(outage.rate_in_outage)),
        line("longest call, ms", &|outage| milliseconds(outage.longest_wait_ms)),
        line("events migrated", &|outage| grouped(outage.migrated_events)),
        line("migration, events/s", &|outage| rate(outage.migration_rate())),
        line("paced appends before the outage, p50 and p99, ms", &|outage| pair(&outage.paced_with_immudb)),
        line("paced appends during the outage, p50 and p99, ms", &|outage| pair(&outage.paced_in_outage)),
        line("paced appends during migration, p50 and p99, ms", &|outage| pair(&outage.paced_in_migration)),
        line("restored into an empty log: events, ImmuDB keys", &|outage| {
            format!("{}, {}", grouped(outage.copied_events), grouped(outage.copied_keys))
        }),
        line("restore, from the start of the process, events/s", &|outage| {
            rate(outage.copied_events as f64 / outage.copy_seconds)
        }),
        line("restore, keys/s", &|outage| rate(outage.copy_rate())),
    ];
    format!("![Outage](benchmarks/outage.svg)\n\n{}", table(&heads, &rows))
}

fn pair(found: &Percentiles) -> String {
    format!("{}, {}", milliseconds(found.p50), milliseconds(found.p99))
}
