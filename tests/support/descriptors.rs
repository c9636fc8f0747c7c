//! The file descriptors of another process.

use std::{collections::HashSet, fs::read_dir, io};

/// Returns the lowest descriptor that is free, which the next file gets.
///
/// As the limit of open files, it stops the process from opening any. The number of open files does
/// not: a file that was closed between others leaves a descriptor below it.
pub fn lowest_free(process: u32) -> io::Result<u64> {
    let open: HashSet<u64> = read_dir(format!("/proc/{process}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    Ok((0..).find(|number| !open.contains(number)).unwrap_or_default())
}
