//! How long callers waited: once or twice in each outage of ImmuDB, and never for long.
//!
//! A glance at the figures never waits for ImmuDB. Where it took long the machine was busy, and writes prove nothing
//! then.

use std::{collections::HashMap, time::Duration};

use super::Problems;
use crate::{
    faults::Faults,
    history::{At, History, Kind, Took},
    world::FALLBACK_AFTER,
};

/// Nearly as long as a caller waits for an ImmuDB that does not answer.
const LONG: Duration = FALLBACK_AFTER.saturating_sub(Duration::from_millis(200));
/// However bad the outage.
const WAIT_MAX: Duration = Duration::from_secs(8);
/// A glance that took longer says that the machine was busy.
const GLANCE_MAX: Duration = Duration::from_millis(400);
/// What an outage leaves behind: ImmuDB is asked again after a while, and takes what is pending.
const AFTERMATH: Duration = Duration::from_secs(3);
const WAITS_A_FAULT: usize = 2;

/// Faults of ImmuDB that followed each other too closely to be told apart.
struct Outage {
    from: At,
    until: At,
    faults: usize,
}

/// What the figures of a run tell.
#[derive(Debug, Default, Clone, Copy)]
pub struct Waits {
    pub longest: Duration,
    /// So many were long, and so many more that a busy machine excuses.
    pub long: usize,
    pub excused: usize,
    /// Of one caller in one outage.
    pub most_in_an_outage: usize,
}

pub fn check(history: &History, faults: &Faults, problems: &mut Problems) -> Waits {
    let slow = |took: &&Took| took.kind == Kind::Glance && took.ended - took.began > GLANCE_MAX;
    let slow_glances = history.took.iter().filter(slow).map(|took| (took.began, took.ended));
    let busy: Vec<(At, At)> = slow_glances.chain(faults.service_gone.iter().copied()).collect();
    let undisturbed =
        |took: &Took| busy.iter().all(|(from, until)| *until < took.began || *from > took.ended);
    let is_long = |took: &&Took| took.kind == Kind::Write && took.ended - took.began >= LONG;
    let long: Vec<&Took> = history.took.iter().filter(is_long).filter(|took| undisturbed(took)).collect();
    for took in long.iter().filter(|took| took.ended - took.began > WAIT_MAX) {
        problems.add("a wait", || format!("{took:?}"));
    }
    let longest = long.iter().map(|took| took.ended - took.began).max().unwrap_or_default();
    let mut most_in_an_outage = 0;
    for outage in outages(&faults.immudb_gone) {
        let mut of_caller: HashMap<u64, usize> = HashMap::new();
        for took in long.iter().filter(|took| took.began <= outage.until && took.ended >= outage.from) {
            *of_caller.entry(took.caller).or_default() += 1;
        }
        let most = of_caller.values().copied().max().unwrap_or(0);
        most_in_an_outage = most_in_an_outage.max(most);
        if most > outage.faults * WAITS_A_FAULT {
            let Outage { from, until, faults } = outage;
            problems.add("waits", || {
                format!(
                    "a caller waited {most} times from {from:?} to {until:?}, in {faults} faults of ImmuDB"
                )
            });
        }
    }
    let excused = history.took.iter().filter(is_long).count() - long.len();
    Waits { longest, long: long.len(), excused, most_in_an_outage }
}

fn outages(faults: &[(At, At)]) -> Vec<Outage> {
    let mut faults = faults.to_vec();
    faults.sort_unstable();
    let mut outages: Vec<Outage> = Vec::new();
    for (from, until) in faults {
        let until = until + AFTERMATH;
        match outages.last_mut() {
            Some(last) if last.until >= from => {
                last.until = last.until.max(until);
                last.faults += 1;
            }
            _ => outages.push(Outage { from, until, faults: 1 }),
        }
    }
    outages
}
