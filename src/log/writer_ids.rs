//! The ids under which this log has claimed its ImmuDB database.
//!
//! They are in `storage/log/writers`, one UUID per line, the newest last. If the head in ImmuDB
//! names one of them, it was written from this log.

use std::{fs, io, io::Write, path::Path};

use tracing::warn;
use uuid::Uuid;

const FILE: &str = "writers";

/// The name of the file that exists while the log is being restored from ImmuDB and lacks events.
pub const UNFINISHED_COPY: &str = "copying";

/// The name of the file that says where the log ended after it had been restored, before anything
/// was appended to it.
pub const RESTORED: &str = "restored";

/// Returns the ids so far, the oldest first. A damaged one is skipped. ImmuDB's head may then name
/// a writer that is unknown here, and the operator decides, as with any other writer.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn load(folder: &Path) -> io::Result<Vec<Uuid>> {
    let path = folder.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    let parse = |(number, line): (u32, &str)| {
        let id = Uuid::try_parse(line).ok();
        if id.is_none() {
            warn!(file = %path.display(), line = number, "ignored a line that is not a writer id");
        }
        id
    };
    Ok((1..).zip(text.lines()).filter_map(parse).collect())
}

/// Creates a new id and makes it durable. It must not be used for a claim before that.
///
/// # Errors
/// Returns an error if the id cannot be written.
pub fn add(folder: &Path) -> io::Result<Uuid> {
    let mut ids = load(folder)?;
    let id = Uuid::new_v4();
    ids.push(id);
    let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
    let path = folder.join(FILE);
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(id)
}

/// Copies the ids, and the marker of an unfinished restore, into the directory of a repaired log.
///
/// # Errors
/// Returns an error if they cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for name in [FILE, UNFINISHED_COPY, RESTORED] {
        match fs::copy(from.join(name), to.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    for entry in fs::read_dir(to)? {
        fs::File::open(entry?.path())?.sync_all()?;
    }
    fs::File::open(to)?.sync_all()
}
