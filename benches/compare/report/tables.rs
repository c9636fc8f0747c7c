//! The measured parts of the page.

use super::text::{NONE, grouped, mebibytes, milliseconds, rate, table};
use crate::{
    measure::{Percentiles, followers, loads::Load, outage::Backlog},
    plan::{Spread, Work},
    results::{Appended, Results},
    rows::Row,
};

const CALLERS: [usize; 4] = [1, 8, 64, 256];

pub fn appends(results: &Results) -> String {
    let mut text = "![Appends with expectation](benchmarks/appends.svg)\n".to_owned();
    let parts = [
        ("With expectation, over 10 000 aggregates, one event a call, events/s:", Spread::Conditional, 1),
        ("With expectation, over 10 000 aggregates, 10 events a call, events/s:", Spread::Conditional, 10),
        ("With expectation, over 10 000 aggregates, 100 events a call, events/s:", Spread::Conditional, 100),
        (
            "Without expectation, over 10 000 aggregates, one event a call, events/s:",
            Spread::Unconditional,
            1,
        ),
        (
            "Without expectation, over 10 000 aggregates, 100 events a call, events/s:",
            Spread::Unconditional,
            100,
        ),
        ("Without expectation, to one aggregate, one event a call, events/s:", Spread::OneAggregate, 1),
        ("Without expectation, to one aggregate, 100 events a call, events/s:", Spread::OneAggregate, 100),
        (
            "With expectation, over 10 000 aggregates, one event of JSON a call (256 bytes of text, so that some of it can be \
             compressed), events/s:",
            Spread::Json,
            1,
        ),
        (
            "With expectation, to one aggregate, one event a call; a call that meets a conflict is made once more with the \
             version that the callers know by then, events/s:",
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
            ["row"].into_iter().chain(heads.iter().map(|head| head.trim_end_matches(' '))).collect();
        let rows = each_row(results, |row| {
            done.iter()
                .map(|work| results.appended(row, *work).map_or(NONE.to_owned(), |a| rate(a.rate())))
                .collect()
        });
        text.push_str(&format!("\n{title}\n\n{}", table(&heads, &rows).replace("| 1 callers", "| 1 caller")));
    }
    let conflicts = each_row(results, |row| {
        let work = Work { spread: Spread::Contended, callers: 8, events: 1 };
        let each = |turn: &crate::measure::appends::Turn| turn.conflicts as f64 / turn.events.max(1) as f64;
        vec![
            results.appended(row, work).map_or(NONE.to_owned(), |found| format!("{:.2}", found.median(each))),
        ]
    });
    text.push_str(&format!(
        "\nConflicts for each append that was stored:\n\n{}",
        table(&["row", "8 callers"], &conflicts)
    ));
    text.push_str("\nWhat it costs, at 64 callers with one event a call (the rows of unconditional `Set` without expectation):\n\n");
    let rows = each_row(results, |row| {
        let work = |spread| Work { spread, callers: 64, events: 1 };
        let appended = results
            .appended(row, work(Spread::Conditional))
            .or_else(|| results.appended(row, work(Spread::Unconditional)));
        appended.map_or(vec![NONE.to_owned(); 6], costs)
    });
    let head = [
        "row",
        "servers' cores",
        "servers' µs an event",
        "load's µs a call",
        "p50, ms",
        "p99, ms",
        "slowest and fastest round, events/s",
    ];
    text + &table(&head, &rows)
}

fn costs(appended: &Appended) -> Vec<String> {
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

/// A line for each row that was run and has something in it.
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
    let head = ["row", "appends/s", "p50, ms", "p90", "p99", "p99.9", "longest"];
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
    table(&["row", "events", "MiB", "bytes an event"], &rows)
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
        "row",
        "1 caller: loads/s",
        "events/s",
        "p50, ms",
        "p99, ms",
        "8 callers: loads/s",
        "events/s",
        "servers' µs an event",
    ];
    format!("![Loads of 1 000 events](benchmarks/loads.svg)\n\n{}", table(&head, &rows))
}

pub fn whole_order(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .whole_orders
        .iter()
        .map(|whole| vec![whole.row.title().to_owned(), grouped(whole.events), rate(whole.events_per_second)])
        .collect();
    table(&["row", "events stored", "events/s"], &rows)
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
    let head = ["row", "loads/s", "appends/s", "load p50, ms", "p99", "append p50, ms", "p99"];
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
    let head = ["row", "followers", "p50, ms", "p90", "p99", "p99.9", "longest", "servers' cores"];
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
        "filled, events/s",
        "load of 1 000 events, ms",
        "start, after a crash, with a cold page cache, s",
        "`Stats` mean (longest), ms",
        "MiB of memory after the start, after appends",
        "disk / encoded events",
    ];
    format!("![Growth](benchmarks/growth.svg)\n\n{}", table(&head, &rows))
}

pub fn outage(results: &Results) -> String {
    let name = |backlog| match backlog {
        Backlog::FewAggregates => "16 aggregates",
        Backlog::AggregateEach => "each event its own",
    };
    let heads: Vec<&str> =
        [""].into_iter().chain(results.outages.iter().map(|outage| name(outage.backlog))).collect();
    let line = |what: &str, of: &dyn Fn(&crate::measure::outage::Outage) -> String| {
        [what.to_owned()].into_iter().chain(results.outages.iter().map(of)).collect::<Vec<String>>()
    };
    let rows = [
        line("appends/s by 64 callers before, with ImmuDB", &|outage| rate(outage.rate_before)),
        line("appends/s in the outage, median of 250 ms", &|outage| rate(outage.rate_in_outage)),
        line("longest wait of a call, ms", &|outage| milliseconds(outage.longest_wait_ms)),
        line("events migrated", &|outage| grouped(outage.migrated_events)),
        line("migration, events/s", &|outage| rate(outage.migration_rate())),
        line("paced appends before, with ImmuDB, p50 and p99, ms", &|outage| pair(&outage.paced_with_immudb)),
        line("paced appends in the outage, p50 and p99, ms", &|outage| pair(&outage.paced_in_outage)),
        line("paced appends in the migration, p50 and p99, ms", &|outage| pair(&outage.paced_in_migration)),
        line("copied by an empty service: events, and keys in ImmuDB", &|outage| {
            format!("{}, {}", grouped(outage.copied_events), grouped(outage.copied_keys))
        }),
        line("copy, from the start of the process: events/s", &|outage| {
            rate(outage.copied_events as f64 / outage.copy_seconds)
        }),
        line("copy: keys/s", &|outage| rate(outage.copy_rate())),
    ];
    format!("![Outage](benchmarks/outage.svg)\n\n{}", table(&heads, &rows))
}

fn pair(found: &Percentiles) -> String {
    format!("{}, {}", milliseconds(found.p50), milliseconds(found.p99))
}
