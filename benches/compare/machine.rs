//! Describes the machine for the report, and checks that the stores are on a real disk.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub file_system: String,
    /// Sequential synced appends of 4 KiB to a file.
    pub syncs_per_second: f64,
}

impl Machine {
    pub fn look(folder: &Path) -> Outcome<Self> {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches([':', ' ', '\t']).to_owned()
        };
        let kibibytes: f64 =
            value(&memory, "MemTotal").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        Ok(Self {
            processor: value(&processors, "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kibibytes / f64::from(1 << 20),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            file_system: file_system(folder)?,
            syncs_per_second: syncs_per_second(folder).map_err(|error| error.to_string())?,
        })
    }
}

/// Rejects a RAM disk: measurements of a store that syncs are meaningless there.
pub fn refuse_ram_disk(folder: &Path) -> Outcome<()> {
    const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
    let found = rustix::fs::statfs(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    if IN_MEMORY.contains(&(found.f_type as u32)) {
        return Err("cargo's target directory is on a RAM disk; set CARGO_TARGET_DIR".to_owned());
    }
    Ok(())
}

/// Returns the file system type of the mount that contains the directory.
fn file_system(folder: &Path) -> Outcome<String> {
    let folder = folder.canonicalize().map_err(|error| error.to_string())?;
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 2 && folder.starts_with(fields[1]));
    Ok(holding.max_by_key(|fields| fields[1].len()).map_or("unknown", |fields| fields[2]).to_owned())
}

fn syncs_per_second(folder: &Path) -> std::io::Result<f64> {
    const SYNCS: u32 = 300;
    let path = folder.join("sync-probe");
    let mut file = File::create(&path)?;
    let began = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
    }
    let rate = f64::from(SYNCS) / began.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}
