//! Measures the time from the start of an append until subscribers receive its event.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::appends;
use crate::{
    load::paced,
    outcome::Outcome,
    row::Row,
    statistics::{Latencies, Percentiles, latencies},
    systems::System,
    work::{Spread, Work},
};

pub const ROWS: [Row; 4] = [Row::AethyrLocal, Row::AethyrImmudb, Row::Umadb, Row::Nats];
pub const FOLLOWERS: [usize; 2] = [1, 100];
pub const PACE: f64 = 1000.0;
const CALLERS: usize = 64;
/// How long to wait at the end for events that have not arrived yet.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Followers {
    pub row: Row,
    pub followers: usize,
    pub delay: Percentiles,
    pub server_cores: f64,
}

struct Seen {
    /// When each append began.
    began: Vec<Instant>,
    /// Appends before this one do not count.
    first: u64,
    delays: Latencies,
}

impl Seen {
    fn received(&mut self, payload: &[u8]) {
        let stamp = payload.first_chunk().copied().map(u64::from_be_bytes);
        if let Some(stamp) = stamp.filter(|stamp| *stamp >= self.first)
            && let Some(began) = self.began.get(stamp as usize)
        {
            self.delays.saturating_record(began.elapsed().as_nanos() as u64);
        }
    }
}

pub async fn measure(row: Row, system: &System, followers: usize, length: Duration) -> Outcome<Followers> {
    let warm_up = Duration::from_secs(1);
    let first = (PACE * warm_up.as_secs_f64()) as u64;
    let seen = Rc::new(RefCell::new(Seen { began: Vec::new(), first, delays: latencies() }));
    let mut running = JoinSet::new();
    for client in system.clients(followers).await? {
        let mut following = client.follow().await?;
        let seen = seen.clone();
        running.spawn_local(async move {
            loop {
                if let Err(problem) = following.next(|payload| seen.borrow_mut().received(payload)).await {
                    return problem;
                }
            }
        });
    }
    let work = Work { spread: Spread::Conditional, callers: CALLERS, events: 1 };
    let callers = appends::callers(system, work, "followed").await?;
    let cpu_before = system.cpu_seconds();
    let pacer = paced::Pacer::start(PACE, warm_up + length);
    let noted = seen.clone();
    let note = move |number: u64, at| {
        let began = &mut noted.borrow_mut().began;
        began.resize(began.len().max(number as usize + 1), at);
        began[number as usize] = at;
    };
    let (_, samples) = paced::append(callers, pacer, note).await?;
    let expected = (samples.len() as u64 - first) * followers as u64;
    let until = Instant::now() + PATIENCE;
    let server_cores = (system.cpu_seconds() - cpu_before) / (warm_up + length).as_secs_f64();
    while seen.borrow().delays.len() < expected {
        if let Some(problem) = running.try_join_next() {
            return Err(format!("{}: {}", row.key(), problem.map_err(|error| error.to_string())?));
        }
        if Instant::now() > until {
            let found = seen.borrow().delays.len();
            return Err(format!(
                "{}: {followers} followers received {found} events instead of {expected}",
                row.key()
            ));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let delay = Percentiles::of(&seen.borrow().delays);
    Ok(Followers { row, followers, delay, server_cores })
}
