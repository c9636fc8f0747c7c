//! What was asked of the service, and whether it holds: from the same run as everything else on the page.

use super::text::{NONE, grouped, milliseconds, rate, table};
use crate::{
    measure::{growth::Stage, loads::Load, outage::Outage},
    plan::{Spread, Work},
    results::Results,
    rows::Row,
};

/// `fallback_after`'s default and what a call may wait beyond it, in milliseconds.
const LONGEST_WAIT_MS: f64 = 1000.0 + 200.0;

#[derive(Clone)]
struct Target {
    what: String,
    asked: String,
    /// What came out, and whether that is enough; absent where it was not measured.
    measured: Option<(String, bool)>,
}

pub fn section(results: &Results) -> String {
    let all = [immudb(results), local(results), reading(results), growth(results), outage(results)].concat();
    let rows: Vec<Vec<String>> = all
        .into_iter()
        .map(|target| {
            let (measured, holds) = target.measured.map_or((NONE.to_owned(), NONE), |(text, holds)| {
                (text, if holds { "yes" } else { "**no**" })
            });
            vec![target.what, target.asked, measured, holds.to_owned()]
        })
        .collect();
    table(&["target", "asked", "measured", "holds"], &rows)
}

fn work(spread: Spread, callers: usize, events: usize) -> Work {
    Work { spread, callers, events }
}

/// So many times what another row does.
fn ratio(results: &Results, what: &str, ours: (Row, Work), theirs: (Row, Work), asked: f64) -> Target {
    let rates = results.appended(ours.0, ours.1).zip(results.appended(theirs.0, theirs.1));
    let measured = rates.map(|(ours, theirs)| {
        let ratio = ours.rate() / theirs.rate();
        (format!("{ratio:.2} × ({} / {})", rate(ours.rate()), rate(theirs.rate())), ratio >= asked)
    });
    Target { what: what.to_owned(), asked: format!("≥ {asked:.1} ×"), measured }
}

fn immudb(results: &Results) -> Vec<Target> {
    let conditional = work(Spread::Conditional, 64, 1);
    let unconditional = work(Spread::Unconditional, 64, 1);
    let ours = (Row::AethyrImmudb, conditional);
    let compare = |what: &str, theirs, asked| ratio(results, what, ours, theirs, asked);
    let p50 = |row, work| results.appended(row, work).map(|found| found.median(|turn| turn.latency.p50));
    let single = p50(Row::AethyrImmudb, work(Spread::Conditional, 1, 1))
        .zip(p50(Row::ImmudbSetOurs, work(Spread::Unconditional, 1, 1)));
    let latency = Target {
        what: "through ImmuDB, one caller: median latency against a plain `Set`, our settings".to_owned(),
        asked: "≤ + 0.5 ms".to_owned(),
        measured: single.map(|(ours, plain)| {
            (format!("{} ms against {} ms", milliseconds(ours), milliseconds(plain)), ours <= plain + 0.5)
        }),
    };
    vec![
        compare(
            "through ImmuDB, 64 callers with expectation, against its conditional `Set`",
            (Row::ImmudbConditional, conditional),
            100.0,
        ),
        compare("… against its unconditional `Set`", (Row::ImmudbSet, unconditional), 3.0),
        compare("… against its unconditional `Set`, our settings", (Row::ImmudbSetOurs, unconditional), 2.0),
        latency,
    ]
}

fn local(results: &Results) -> Vec<Target> {
    let mut all = Vec::new();
    for (callers, asked) in [(1, 1.0), (8, 1.2), (64, 1.2), (256, 1.2)] {
        let work = work(Spread::Conditional, callers, 1);
        let what = format!("local only, with expectation, {callers} callers, against UmaDB")
            .replace(" 1 callers", " 1 caller");
        all.push(ratio(results, &what, (Row::AethyrLocal, work), (Row::Umadb, work), asked));
    }
    let conditional = work(Spread::Conditional, 64, 1);
    for (row, name) in [(Row::Nats, "NATS JetStream"), (Row::MessageDb, "message-db")] {
        let what = format!("local only, with expectation, 64 callers, against {name}");
        all.push(ratio(results, &what, (Row::AethyrLocal, conditional), (row, conditional), 3.0));
    }
    let hundred = results.appended(Row::AethyrLocal, work(Spread::Conditional, 64, 100));
    all.push(at_least(
        "local only, 100 events a call, 64 callers, events/s",
        hundred.map(|found| found.rate()),
        150_000.0,
    ));
    all
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

fn reading(results: &Results) -> Vec<Target> {
    let load = |row, callers| {
        let wanted = |load: &&Load| {
            load.row == row && load.callers == callers && load.events == 1000 && !load.from_snapshot
        };
        results.loads.iter().find(wanted).map(|load| load.loads_per_second)
    };
    let mut all = Vec::new();
    for callers in [1, 8] {
        let measured =
            load(Row::AethyrLocal, callers).zip(load(Row::Umadb, callers)).map(|(ours, theirs)| {
                (format!("{:.2} × ({} / {})", ours / theirs, rate(ours), rate(theirs)), ours >= theirs * 2.0)
            });
        let what = format!("loading 1 000 events, {callers} callers, against UmaDB")
            .replace(" 1 callers", " 1 caller");
        all.push(Target { what, asked: "≥ 2.0 ×".to_owned(), measured });
    }
    let whole = results.whole_orders.iter().find(|whole| whole.row == Row::AethyrLocal);
    all.push(at_least(
        "the whole order by one caller, events/s",
        whole.map(|whole| whole.events_per_second),
        500_000.0,
    ));
    all
}

fn growth(results: &Results) -> Vec<Target> {
    let (first, last) = (results.growth.first(), results.growth.last());
    let grown = last.filter(|last| last.events > first.map_or(0, |first| first.events));
    let title = |what: &str| {
        grown.map_or(what.to_owned(), |last| format!("with {} events: {what}", grouped(last.events)))
    };
    let kept = first.zip(grown).map(|(first, last)| {
        let share = last.appends_per_second / first.appends_per_second;
        (format!("{:.0} % of the rate with {}", share * 100.0, grouped(first.events)), share >= 0.8)
    });
    let memory = |bytes: u64| bytes as f64 / 1e6;
    let resident =
        grown.map(|last| memory(last.resident_bytes_at_start.max(last.resident_bytes_after_appends)));
    vec![
        Target { what: title("appends/s"), asked: "≥ 80 %".to_owned(), measured: kept },
        below(&title("start"), "s", grown.map(|last| last.start_seconds), 3.0),
        below(&title("`Stats`, mean"), "ms", grown.map(|last| last.stats_mean_ms), 1.0),
        below(&title("memory"), "MB", resident, 500.0),
        below(&title("disk, times the encoded events"), "", grown.map(Stage::disk_ratio), 2.5),
    ]
}

fn outage(results: &Results) -> Vec<Target> {
    let names = ["few aggregates", "each event its own aggregate"];
    let mut all = Vec::new();
    for (name, asked, outage) in
        [(names[0], 30_000.0, results.outages.first()), (names[1], 15_000.0, results.outages.get(1))]
    {
        let measured = outage.map(|outage| {
            let text = format!("{} after {}", rate(outage.rate_in_outage), rate(outage.rate_before));
            (text, outage.rate_in_outage >= outage.rate_before)
        });
        all.push(Target {
            what: format!("outage, {name}: appends/s"),
            asked: "≥ those with ImmuDB".to_owned(),
            measured,
        });
        let longest = outage.map(|outage| {
            (
                format!("{} ms", milliseconds(outage.longest_wait_ms)),
                outage.longest_wait_ms <= LONGEST_WAIT_MS,
            )
        });
        all.push(Target {
            what: "… longest wait of a call".to_owned(),
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
            what: "… p99 of appends in the migration".to_owned(),
            asked: "≤ 2 × that with ImmuDB".to_owned(),
            measured: p99(|outage| outage.paced_with_immudb.p99),
        });
        all.push(Target {
            what: "… the same".to_owned(),
            asked: "≤ 2 × that in the outage".to_owned(),
            measured: p99(|outage| outage.paced_in_outage.p99),
        });
        all.push(at_least(
            "… copy by an empty service, keys/s",
            outage.map(|outage| outage.copy_rate()),
            100_000.0,
        ));
    }
    all
}
