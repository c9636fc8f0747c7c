//! The first table of the report: each result of the service, and that of the best peer.

use super::text::{grouped, milliseconds, rate, table};
use crate::{
    results::Results,
    row::Row,
    work::{Spread, Work},
};

const OURS: Row = Row::AethyrLocal;
/// The systems that store events as the service does without ImmuDB.
const PEERS: [Row; 3] = [Row::Umadb, Row::Nats, Row::MessageDb];

/// Whether a higher or a lower result is better.
#[derive(Clone, Copy)]
enum Better {
    More,
    Less,
}

impl Better {
    /// Returns how many times better `ours` is than `theirs`.
    fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::More => ours / theirs,
            Self::Less => theirs / ours,
        }
    }
}

pub fn section(results: &Results) -> String {
    let mut rows = Vec::new();
    let mut add_asked = |asked: f64,
                         what: String,
                         better: Better,
                         shown: fn(f64) -> String,
                         of: &dyn Fn(Row) -> Option<f64>| {
        let theirs = PEERS.into_iter().filter_map(|row| Some((row, of(row)?)));
        let best = theirs.max_by(|one, other| better.ratio(one.1, other.1).total_cmp(&1.0));
        if let (Some(ours), Some((peer, theirs))) = (of(OURS), best) {
            let ratio = better.ratio(ours, theirs);
            let ratio = if ratio < asked { format!("**{ratio:.2}**") } else { format!("{ratio:.2}") };
            let asked = format!("{asked:.1}");
            rows.push(vec![what, shown(ours), shown(theirs), peer.title().to_owned(), ratio, asked]);
        }
    };
    let mut works: Vec<Work> = results.appends.iter().map(|appended| appended.work).collect();
    works.sort_unstable();
    works.dedup();
    for work in works {
        let rate_of = |row| results.appended(row, work).map(|found| found.rate());
        add_asked(asked(work), named(work), Better::More, rate, &rate_of);
    }
    let mut add =
        |what, better, shown, of: &dyn Fn(Row) -> Option<f64>| add_asked(1.0, what, better, shown, of);
    for latency in results.latencies.iter().filter(|latency| latency.row == OURS) {
        let what = format!("latency at {} appends/s, p99, ms", rate(latency.calls_per_second));
        add(what, Better::Less, milliseconds, &|row| {
            results.latencies.iter().find(|found| found.row == row).map(|found| found.latency.p99)
        });
    }
    let bytes = |row| results.disk.iter().find(|disk| disk.row == row);
    add("disk, bytes per event".to_owned(), Better::Less, rate, &|row| {
        bytes(row).map(|disk| disk.bytes as f64 / disk.events.max(1) as f64)
    });
    for ours in results.loads.iter().filter(|load| load.row == OURS && !load.from_snapshot) {
        let what =
            format!("loads of {} events, {}, loads/s", grouped(ours.events as u64), callers(ours.callers));
        add(what, Better::More, rate, &|row| {
            let same = results.loads.iter().find(|load| {
                load.row == row
                    && !load.from_snapshot
                    && (load.events, load.callers) == (ours.events, ours.callers)
            });
            same.map(|load| load.loads_per_second)
        });
    }
    add("total order, events/s".to_owned(), Better::More, rate, &|row| {
        results.whole_orders.iter().find(|whole| whole.row == row).map(|whole| whole.events_per_second)
    });
    add("mixed load, 64 callers, calls/s".to_owned(), Better::More, rate, &|row| {
        let found = results.mixed.iter().find(|mixed| mixed.row == row);
        found.map(|mixed| mixed.loads_per_second + mixed.appends_per_second)
    });
    for ours in results.followers.iter().filter(|found| found.row == OURS) {
        let what = format!("{} followers, p50, ms", ours.followers).replace("1 followers", "1 follower");
        add(what, Better::Less, milliseconds, &|row| {
            let same =
                results.followers.iter().find(|found| found.row == row && found.followers == ours.followers);
            same.map(|found| found.delay.p50)
        });
    }
    table(&["result", "Aethyr, local only", "best peer", "peer", "ratio", "target"], &rows)
}

/// Returns the target for the ratio of the service's rate to that of the best peer.
fn asked(work: Work) -> f64 {
    match (work.spread, work.callers, work.events) {
        (Spread::Conditional | Spread::Unconditional, 8 | 64 | 256, 1) => 1.2,
        (Spread::Conditional, 64, 100) => 0.8,
        _ => 1.0,
    }
}

fn named(work: Work) -> String {
    let spread = match work.spread {
        Spread::Conditional => "conditional appends",
        Spread::Unconditional => "unconditional appends",
        Spread::OneAggregate => "unconditional appends to one aggregate",
        Spread::Json => "conditional appends of JSON",
        Spread::Contended => "conditional appends to one aggregate, with retries after conflicts",
    };
    let events = match work.events {
        1 => "one event per call".to_owned(),
        events => format!("{events} events per call"),
    };
    format!("{spread}, {events}, {}, events/s", callers(work.callers))
}

fn callers(count: usize) -> String {
    if count == 1 { "1 caller".to_owned() } else { format!("{count} callers") }
}
