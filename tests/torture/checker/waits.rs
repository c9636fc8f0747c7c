//! How long clients waited: once or twice in each outage of ImmuDB, never for long, and not at all
//! outside of outages.
//!
//! Time in which the service was down, the machine did not run what was due, or other programs had
//! the processors does not count. Nothing else is an excuse: no full disk, no crowd of clients, and
//! no other fault of the service.

use std::{collections::HashMap, time::Duration};

use super::Problems;
use crate::{
    faults::Faults,
    history::{At, History, Kind, Took},
    world::FALLBACK_AFTER,
};

/// A commit is slow above half of `fallback_after`; the rest allows for a machine with other work.
const LONG: Duration = Duration::from_millis(FALLBACK_AFTER.as_millis() as u64 / 2 + 100);
/// The limit for every wait, however bad the outage is.
const WAIT_MAX: Duration = FALLBACK_AFTER.saturating_mul(2);
/// An outage has an aftermath: ImmuDB is tried again only after a while, and then takes what is
/// pending.
const AFTERMATH: Duration = Duration::from_secs(3);
/// The limit for one client in one outage. A service that is restarted during the outage does not
/// know of earlier waits.
const WAITS_MAX: usize = 2;

/// Overlapping faults of ImmuDB.
struct Outage {
    from: At,
    until: At,
    waits_max: usize,
}

/// The waits of a run, for its summary.
#[derive(Debug, Default, Clone, Copy)]
pub struct Waits {
    pub longest: Duration,
    /// The number of long waits, and of those that would be long if the service had not been down
    /// or the machine had not stalled.
    pub long: usize,
    pub excused: usize,
    /// How long the service was down or the machine stalled.
    pub excused_time: Duration,
    /// The most waits of one client in one outage.
    pub most_in_an_outage: usize,
}

pub fn check(history: &History, faults: &Faults, problems: &mut Problems) -> Waits {
    let excuses = merged(faults.service_down.iter().chain(&faults.stalls).copied());
    let outages = outages(faults);
    let excused_time = excuses.iter().map(|(from, until)| *until - *from).sum();
    let mut waits = Waits { excused_time, ..Waits::default() };
    let mut of_caller: HashMap<u64, Vec<&Took>> = HashMap::new();
    for took in history.took.iter().filter(|took| took.kind == Kind::Write) {
        if took.ended - took.began < LONG {
            continue;
        }
        let wait = (took.ended - took.began).saturating_sub(overlap(took, &excuses));
        if wait < LONG {
            waits.excused += 1;
            continue;
        }
        waits.long += 1;
        waits.longest = waits.longest.max(wait);
        of_caller.entry(took.caller).or_default().push(took);
        if wait > WAIT_MAX {
            problems.add("a wait", || format!("of {wait:?}: {took:?}"));
        }
    }
    for mut calls in of_caller.into_values() {
        calls.sort_unstable_by_key(|took| took.began);
        let mut counts = vec![0; outages.len()];
        for took in calls {
            // Take the first outage that has room: later calls fit into later ones.
            let in_it = |outage: &Outage| took.began <= outage.until + AFTERMATH && took.ended >= outage.from;
            let mut meant = (0..outages.len()).filter(|place| in_it(&outages[*place])).peekable();
            if meant.peek().is_none() {
                problems.add("a wait outside of every outage", || format!("{took:?}"));
                continue;
            }
            let Some(place) = meant.find(|place| counts[*place] < outages[*place].waits_max) else {
                problems.add("waits", || format!("more than an outage allows a caller: {took:?}"));
                continue;
            };
            counts[place] += 1;
        }
        let most = counts.into_iter().max().unwrap_or(0);
        waits.most_in_an_outage = waits.most_in_an_outage.max(most);
    }
    waits
}

fn outages(faults: &Faults) -> Vec<Outage> {
    let with_waits = |(from, until): (At, At)| {
        let is_within = |down: &&(At, At)| down.1 >= from && down.0 <= until + AFTERMATH;
        let starts = faults.service_down.iter().filter(is_within).count();
        Outage { from, until, waits_max: WAITS_MAX * (starts + 1) }
    };
    merged(faults.immudb_gone.iter().copied()).into_iter().map(with_waits).collect()
}

fn merged(times: impl Iterator<Item = (At, At)>) -> Vec<(At, At)> {
    let mut times: Vec<(At, At)> = times.collect();
    times.sort_unstable();
    let mut merged: Vec<(At, At)> = Vec::new();
    for (from, until) in times {
        match merged.last_mut() {
            Some(last) if last.1 >= from => last.1 = last.1.max(until),
            _ => merged.push((from, until)),
        }
    }
    merged
}

fn overlap(took: &Took, times: &[(At, At)]) -> Duration {
    times.iter().map(|(from, until)| took.ended.min(*until).saturating_sub(took.began.max(*from))).sum()
}
