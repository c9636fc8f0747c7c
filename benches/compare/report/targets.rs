//! The performance targets of the service, and whether this run meets them.

use super::text::{NONE, grouped, milliseconds, rate, table};
use crate::{
    measure::{growth::Stage, outage::Outage},
    results::{Appended, Results},
    row::Row,
    work::{Spread, Work},
};

/// The default of `fallback_after`, plus a tolerance, in milliseconds.
const LONGEST_WAIT_MS: f64 = 1000.0 + 200.0;

/// Marks a result without a target.
const REPORTED: &str = "reported";

#[derive(Clone)]
struct Target {
    what: String,
    asked: String,
    /// The result, and whether it meets the target. Absent if it was not measured.
    measured: Option<(String, bool)>,
}

pub fn section(results: &Results) -> String {
    let all = [immudb(results), local(results), growth(results), outage(results)].concat();
    let rows: Vec<Vec<String>> = all
        .into_iter()
        .map(|target| {
            let (measured, holds) = target.measured.map_or((NONE.to_owned(), NONE), |(text, holds)| {
                (text, if holds { "yes" } else { "**no**" })
            });
            let holds = if target.asked == REPORTED { NONE } else { holds };
            vec![target.what, target.asked, measured, holds.to_owned()]
        })
        .collect();
    table(&["metric", "target", "measured", "met"], &rows)
}

fn work(spread: Spread, callers: usize, events: usize) -> Work {
    Work { spread, callers, events }
}

fn times(ratio: f64, ours: f64, theirs: f64) -> String {
    format!("{ratio:.2} × ({} / {})", rate(ours), rate(theirs))
}

fn immudb(results: &Results) -> Vec<Target> {
    const ASKED: f64 = 2.4;
    let [conditional, unconditional] =
        [Spread::Conditional, Spread::Unconditional].map(|spread| work(spread, 64, 1));
    let ours = results.appended(Row::AethyrImmudb, conditional);
    let reported = |what: &str, theirs| {
        let rates =
            ours.zip(theirs).map(|(ours, theirs): (&Appended, &Appended)| (ours.rate(), theirs.rate()));
        let measured = rates.map(|(ours, theirs)| (times(ours / theirs, ours, theirs), true));
        Target { what: what.to_owned(), asked: REPORTED.to_owned(), measured }
    };
    let p50 = |row, work| results.appended(row, work).map(|found| found.median(|turn| turn.latency.p50));
    let single = p50(Row::AethyrImmudb, work(Spread::Conditional, 1, 1))
        .zip(p50(Row::ImmudbSetOurs, work(Spread::Unconditional, 1, 1)));
    let beside_set = results.beside_set();
    vec![
        Target {
            what:
                "with ImmuDB, 64 callers, conditional, relative to ImmuDB's unconditional `Set` with service \
                   settings: median of nine alternating rounds"
                    .to_owned(),
            asked: format!("≥ {ASKED:.1} ×"),
            measured: beside_set.map(|(ratio, [ours, theirs])| (times(ratio, ours, theirs), ratio >= ASKED)),
        },
        reported("… relative to unconditional `Set`", results.appended(Row::ImmudbSet, unconditional)),
        reported("… relative to conditional `Set`", results.appended(Row::ImmudbConditional, conditional)),
        Target {
            what: "with ImmuDB, 1 caller: median latency relative to `Set`, service settings".to_owned(),
            asked: "≤ + 0.5 ms".to_owned(),
            measured: single.map(|(ours, plain)| {
                (format!("{} ms, plain {} ms", milliseconds(ours), milliseconds(plain)), ours <= plain + 0.5)
            }),
        },
    ]
}

fn local(results: &Results) -> Vec<Target> {
    const ABOVE_MS: f64 = 0.06;
    const DISK_BYTES: f64 = 480.0;
    let one = results.appended(Row::AethyrLocal, work(Spread::Conditional, 1, 1));
    let floor = one.zip(results.floor()).map(|(one, (write, call))| {
        let ours = one.median(|turn| turn.latency.p50);
        let text = [ours, write, call].map(milliseconds);
        (format!("{} ms, floor {} + {} ms", text[0], text[1], text[2]), ours <= write + call + ABOVE_MS)
    });
    let disk = results.disk.iter().find(|disk| disk.row == Row::AethyrLocal);
    let disk = disk.map(|disk| {
        let bytes = disk.bytes as f64 / disk.events.max(1) as f64;
        (rate(bytes), bytes <= DISK_BYTES)
    });
    vec![
        Target {
            what: "local only, one caller: median latency, relative to a synced write plus an empty call"
                .to_owned(),
            asked: format!("≤ + {ABOVE_MS} ms"),
            measured: floor,
        },
        Target {
            what: "bytes on disk for an event with 256 bytes of data".to_owned(),
            asked: format!("≤ {DISK_BYTES}"),
            measured: disk,
        },
    ]
}

fn at_least(what: &str, measured: Option<f64>, asked: f64) -> Target {
    Target {
        what: what.to_owned(),
        asked: format!("≥ {}", rate(asked)),
        measured: measured.map(|measured| (rate(measured), measured >= asked)),
    }
}

fn below(what: &str, unit: &str, measured: Option<f64>, asked: f64) -> Target {
    Target {
        what: what.to_owned(),
        asked: format!("< {asked} {unit}").trim_end().to_owned(),
        measured: measured
            .map(|measured| (format!("{measured:.2} {unit}").trim_end().to_owned(), measured < asked)),
    }
}

fn growth(results: &Results) -> Vec<Target> {
    let (first, last) = (results.growth.first(), results.growth.last());
    let grown = last.filter(|last| last.events > first.map_or(0, |first| first.events));
    let title = |what: &str| {
        grown.map_or(what.to_owned(), |last| format!("with {} events: {what}", grouped(last.events)))
    };
    let kept = first.zip(grown).map(|(first, last)| {
        let share = last.appends_per_second / first.appends_per_second;
        (format!("{:.0} % of the rate with {} events", share * 100.0, grouped(first.events)), share >= 0.9)
    });
    let memory = |bytes: u64| bytes as f64 / 1e6;
    let resident =
        grown.map(|last| memory(last.resident_bytes_at_start.max(last.resident_bytes_after_appends)));
    vec![
        Target { what: title("appends/s"), asked: "≥ 90 %".to_owned(), measured: kept },
        below(&title("start"), "s", grown.map(|last| last.start_seconds), 0.5),
        below(&title("start after a crash"), "s", grown.map(|last| last.start_after_crash_seconds), 1.5),
        below(&title("`Stats`, mean"), "ms", grown.map(|last| last.stats_mean_ms), 1.0),
        below(&title("memory"), "MB", resident, 120.0),
        below(&title("disk, relative to the encoded events"), "", grown.map(Stage::disk_ratio), 2.5),
    ]
}

fn outage(results: &Results) -> Vec<Target> {
    let names = ["few aggregates", "one aggregate per event"];
    let mut all = Vec::new();
    for (name, asked, outage) in
        [(names[0], 30_000.0, results.outages.first()), (names[1], 15_000.0, results.outages.get(1))]
    {
        let measured = outage.map(|outage| {
            let text = format!("{}, {} before", rate(outage.rate_in_outage), rate(outage.rate_before));
            (text, outage.rate_in_outage >= outage.rate_before)
        });
        all.push(Target {
            what: format!("outage, {name}: appends/s"),
            asked: "≥ the rate with ImmuDB".to_owned(),
            measured,
        });
        let longest = outage.map(|outage| {
            (
                format!("{} ms", milliseconds(outage.longest_wait_ms)),
                outage.longest_wait_ms <= LONGEST_WAIT_MS,
            )
        });
        all.push(Target {
            what: "… longest call".to_owned(),
            asked: format!("≤ {LONGEST_WAIT_MS:.0} ms"),
            measured: longest,
        });
        all.push(at_least("… migration, events/s", outage.map(|outage| outage.migration_rate()), asked));
        let p99 = |before: fn(&Outage) -> f64| {
            outage.map(|outage| {
                let (before, during) = (before(outage), outage.paced_in_migration.p99);
                let text = format!("{} ms, {} ms before", milliseconds(during), milliseconds(before));
                (text, during <= before * 2.0)
            })
        };
        all.push(Target {
            what: "… p99 of appends during the migration".to_owned(),
            asked: "≤ 2 × p99 with ImmuDB".to_owned(),
            measured: p99(|outage| outage.paced_with_immudb.p99),
        });
        all.push(Target {
            what: "… the same".to_owned(),
            asked: "≤ 2 × p99 during the outage".to_owned(),
            measured: p99(|outage| outage.paced_in_outage.p99),
        });
        all.push(at_least(
            "… restore into an empty log, keys/s",
            outage.map(|outage| outage.copy_rate()),
            100_000.0,
        ));
    }
    all
}
