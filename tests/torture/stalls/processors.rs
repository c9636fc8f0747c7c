//! Who has the processors: the programs of this test, or others.

use std::{collections::HashMap, fs, process, thread, time::Duration};

/// In a second, of each processor.
const TICKS: u64 = 100;
/// Where others have more than one in so many of all ticks, what this test waits for may be waiting for them.
const ONE_IN: u64 = 4;

/// What the processors did for others since the system was started: all but this process and its descendants.
pub fn ticks_of_others() -> u64 {
    ticks_of_all().saturating_sub(ticks_of_ours())
}

/// Whether others had too much of `elapsed`.
pub fn were_taken(ticks: u64, elapsed: Duration) -> bool {
    let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let of_all = elapsed.as_millis() as u64 * TICKS * processors / 1000;
    ticks > of_all / ONE_IN
}

/// All but the idle ones. Another system on the same machine may have had them.
fn ticks_of_all() -> u64 {
    const IDLE: usize = 3;
    const WAITING_FOR_DISK: usize = 4;
    /// Guests are counted twice behind here.
    const STOLEN: usize = 7;
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let ticks =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|ticks| ticks.parse::<u64>().unwrap());
    let busy =
        ticks.enumerate().filter(|(what, _)| ![IDLE, WAITING_FOR_DISK].contains(what) && *what <= STOLEN);
    busy.map(|(_, ticks)| ticks).sum()
}

struct Process {
    parent: u32,
    /// Its own, and of children that ended.
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

/// `None`: it has ended meanwhile.
fn read(id: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // Behind the name, which may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum();
    Some(Process { parent: fields.get(1)?.parse().ok()?, ticks })
}
