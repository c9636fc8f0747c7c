//! A server process that the benchmark started. It is stopped when the value is dropped. Also
//! measures CPU time, memory and disk space.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::outcome::Outcome;

const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);
/// The unit of CPU time in /proc, which is a constant of the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// The signal that stops it.
    signal: Signal,
}

impl Process {
    /// Starts the command, with its output in `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Outcome<Self> {
        let file = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let again = file.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(again).stderr(file);
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), signal: Signal::TERM })
    }

    #[must_use]
    pub fn ended_by(mut self, signal: Signal) -> Self {
        self.signal = signal;
        self
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `ready` returns a value. Returns an error if the process exits first.
    pub async fn ready<T>(&mut self, mut ready: impl AsyncFnMut(&Self) -> Option<T>) -> Outcome<T> {
        let until = Instant::now() + STOP_TIMEOUT * 10;
        while Instant::now() < until {
            if let Some(found) = ready(self).await {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                return Err(format!("{} exited, {status}:\n{}", self.name, self.log()));
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!("{} does not answer:\n{}", self.name, self.log()))
    }

    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        kill_process(Pid::from_child(&self.child), signal).map_err(|error| format!("{}: {error}", self.name))
    }

    /// Stops the process, and waits until it has exited.
    pub fn stop(mut self) -> Outcome<()> {
        self.signal(self.signal)?;
        self.end()
    }

    fn end(&mut self) -> Outcome<()> {
        let until = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < until {
            if self.child.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(format!("{} does not exit:\n{}", self.name, self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A stopped process handles no other signal.
            _ = self.signal(Signal::CONT);
            // The children of a killed PostgreSQL server keep running, so stop it with its own
            // signal.
            if self.signal != Signal::TERM && self.signal(self.signal).is_ok() && self.end().is_ok() {
                return;
            }
            _ = self.child.kill();
            _ = self.child.wait();
        }
    }
}

/// Returns the CPU seconds of a process and its children, including those that have exited.
pub fn cpu_seconds(id: u32) -> f64 {
    let (own, ended) = ticks(id);
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let running: f64 =
        children.split_whitespace().filter_map(|child| child.parse().ok()).map(cpu_seconds).sum();
    (own + ended) as f64 / TICKS_PER_SECOND + running
}

/// Returns the CPU seconds of this process.
pub fn own_cpu_seconds() -> f64 {
    ticks(std::process::id()).0 as f64 / TICKS_PER_SECOND
}

/// Returns the CPU time of the process, and that of its children that have exited.
fn ticks(id: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain any character.
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let at = |index: usize| fields.get(index).copied().unwrap_or(0);
    (at(11) + at(12), at(13) + at(14))
}

/// Returns the resident memory of a process, without its children.
pub fn resident_bytes(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Returns the disk space that is allocated to the files in a directory.
pub fn disk_bytes(folder: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()) + metadata.blocks() * BLOCK_BYTES,
        Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
        // The file has been deleted.
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

/// Drops the page cache, which only root may do. Returns whether it was dropped.
pub fn drop_page_cache() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
}

/// Deletes the directory, and creates an empty one.
pub fn clear_folder(folder: &Path) -> Outcome<()> {
    let problem = |error| format!("{}: {error}", folder.display());
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(problem(error)),
        _ => {}
    }
    fs::create_dir_all(folder).map_err(problem)
}

/// Returns a port that is currently free.
pub fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}
