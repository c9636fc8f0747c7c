//! ImmuDB's answers are late, for as long as it takes.
//!
//! The test measures how often clients wait for them, and how long.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::State;

use crate::support::{
    events::append_to,
    immudb::ImmuDb,
    load::Load,
    proxy::{Mode, Proxy},
    service::{Service, Setup},
};

/// What a client may notice of one delay, with the default configuration.
struct Bounds {
    late: Duration,
    fallbacks_max: u64,
    /// The waits of more than half a second, for one client.
    long_waits_max: usize,
    wait_max: Duration,
}

const LONG_WAIT: Duration = Duration::from_millis(500);
/// The limit until an idle service is connected again.
const BACK_WITHIN: Duration = Duration::from_secs(5);
const CALLERS: usize = 4;

const BOUNDS: [Bounds; 4] = [
    Bounds::new(300, 0, usize::MAX, 700),
    Bounds::new(700, 1, 2, 1200),
    Bounds::new(1200, 1, 2, 1200),
    Bounds::new(2500, 1, 2, 1200),
];

impl Bounds {
    const fn new(late: u64, fallbacks_max: u64, long_waits_max: usize, wait_max: u64) -> Self {
        let (late, wait_max) = (Duration::from_millis(late), Duration::from_millis(wait_max));
        Self { late, fallbacks_max, long_waits_max, wait_max }
    }
}

/// Runs all delays, and an outage.
///
/// # Errors
/// Returns an error that lists every delay of which a client noticed more than it may.
pub async fn run(length: Duration) -> Result<(), String> {
    let mut problems = Vec::new();
    for bounds in BOUNDS {
        problems.extend(delay(&bounds, length).await.err());
    }
    problems.extend(outage().await.err());
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

async fn delay(bounds: &Bounds, length: Duration) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    let service = Service::start(Setup::with_default_deadlines(proxy.port())).await;
    append_to(&mut service.client(), "room-1", 20).await;
    service.wait_until_forwarded().await;
    let before = service.stats().await.fallbacks;
    proxy.set(Mode::LateAnswers(bounds.late));
    let load = Load::start(&service.client(), CALLERS, 1);
    tokio::time::sleep(length).await;
    let stats = service.stats().await;
    let calls = load.end().await;
    proxy.set(Mode::Pass);
    let healed = Instant::now();
    service.wait_for_state(State::Connected).await;
    let back = healed.elapsed();

    let mut long_waits: BTreeMap<&str, usize> = BTreeMap::new();
    for call in &calls {
        let count = long_waits.entry(&call.events[0].aggregate_id).or_default();
        *count += usize::from(call.took > LONG_WAIT);
    }
    let longest = calls.iter().map(|call| call.took).max().unwrap();
    let fallbacks = stats.fallbacks - before;
    let most = long_waits.values().copied().max().unwrap();
    println!(
        "late: answers late by {:.1} s for {:.0} s: {} appends, {fallbacks} fallbacks, then {:?}; above 0.5 s: {:?} a \
         caller; longest {:.3} s; {} pending, connected {:.1} s after it ended",
        bounds.late.as_secs_f64(),
        length.as_secs_f64(),
        calls.len(),
        stats.state(),
        long_waits.values().collect::<Vec<_>>(),
        longest.as_secs_f64(),
        stats.pending_events,
        back.as_secs_f64(),
    );
    let kept = calls.iter().all(|call| call.answer.is_ok())
        && fallbacks <= bounds.fallbacks_max
        && most <= bounds.long_waits_max
        && longest <= bounds.wait_max;
    if kept { Ok(()) } else { Err(format!("answers late by {:?}: more than a caller may see", bounds.late)) }
}

/// Measures an outage after which no client appends.
async fn outage() -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_default_deadlines(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 20).await;
    immudb.kill();
    append_to(&mut service.client(), "room-1", 20).await;
    immudb.restart().await;
    let healed = Instant::now();
    service.wait_for_state(State::Connected).await;
    let back = healed.elapsed();
    println!("late: idle, connected {:.1} s after an outage", back.as_secs_f64());
    if back <= BACK_WITHIN { Ok(()) } else { Err(format!("connected only {back:?} after an outage")) }
}
