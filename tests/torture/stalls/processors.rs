//! Who has the processors: the programs of this test, or others.
//!
//! The counters come from `/proc`, so they are as coarse as the system's ticks.

use std::{collections::HashMap, fs, process, time::Duration};

use rustix::thread::{CpuSet, sched_getaffinity};

/// Per second and processor.
const TICKS: u64 = 100;
/// If others have more than one in this many of all ticks, this test may be waiting for them.
const ONE_IN: u64 = 4;

/// Returns the ticks that the processors spent on others since the system started: on all processes
/// but this one and its descendants. Ticks of the kernel belong to no process.
pub fn ticks_of_others() -> u64 {
    // A process that ends is counted neither itself nor with its parent, if the parent was read
    // before it ended: then the second reading is right.
    let (before, all, after) = (ticks_of_ours(), ticks_of_all(), ticks_of_ours());
    all.saturating_sub(before.max(after))
}

/// Returns whether others had too much of `elapsed`.
pub fn were_taken(ticks: u64, elapsed: Duration) -> bool {
    let of_each = elapsed.as_millis() as u64 * TICKS / 1000;
    ticks > of_each * processors().count() as u64 / ONE_IN
}

/// Returns the numbers of the processors that this program may run on.
fn processors() -> impl Iterator<Item = usize> {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(move |number| allowed.is_set(*number))
}

fn ticks_of_all() -> u64 {
    const USER: usize = 0;
    const NICE: usize = 1;
    /// Another system on the same machine had them.
    const STOLEN: usize = 7;
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let of = |number: usize| {
        let name = format!("cpu{number} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        let ticks: Vec<u64> = line.split_whitespace().map(|ticks| ticks.parse().unwrap()).collect();
        [USER, NICE, STOLEN].map(|what| ticks[what]).iter().sum::<u64>()
    };
    processors().map(of).sum()
}

struct Process {
    parent: u32,
    /// Its own ticks, and those of children that have ended.
    ticks: u64,
}

fn ticks_of_ours() -> u64 {
    let ids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let processes: HashMap<u32, Process> = ids.filter_map(|id| Some((id, read(id)?))).collect();
    let is_ours = |mut id: u32| loop {
        match processes.get(&id) {
            _ if id == process::id() => return true,
            Some(process) => id = process.parent,
            None => return false,
        }
    };
    processes.iter().filter(|(id, _)| is_ours(**id)).map(|(_, process)| process.ticks).sum()
}

/// Returns `None` if the process has ended in the meantime.
fn read(id: u32) -> Option<Process> {
    const PARENT: usize = 1;
    const USER: usize = 11;
    const USER_OF_CHILDREN: usize = 13;
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // After the name, which may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let ticks = number(USER)? + number(USER_OF_CHILDREN)?;
    Some(Process { parent: fields.get(PARENT)?.parse().ok()?, ticks })
}
