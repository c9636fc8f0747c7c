//! The ids under which this log has claimed its ImmuDB database: `storage/log/writers`, one UUID a line,
//! the newest last. A head that names one of them was written from this log.

use std::{fs, io, io::Write, path::Path};

use tracing::warn;
use uuid::Uuid;

const FILE: &str = "writers";

/// There while the log is copied out of ImmuDB, and lacks events.
pub const UNFINISHED_COPY: &str = "copying";

/// The ids so far, the oldest first. A damaged one is passed over: without it ImmuDB's head may name a writer
/// that nobody knows here, and then a person decides, as with any other writer.
///
/// # Errors
/// The file can't be read.
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
            warn!(file = %path.display(), line = number, "no writer id; it is passed over");
        }
        id
    };
    Ok((1..).zip(text.lines()).filter_map(parse).collect())
}

/// Makes a new id durable; only then may it be claimed with.
///
/// # Errors
/// It can't be written.
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

/// Takes the ids, and the note of an unfinished copy, along into a mended log's folder.
///
/// # Errors
/// They can't be read or written.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for name in [FILE, UNFINISHED_COPY] {
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
