//! What a power failure does to names: files and directories that were created, renamed or removed
//! since the last sync of their directory are restored in reverse order.
//!
//! The journal is that of `shim.c`, which describes it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use crate::power::Survives;

pub const JOURNAL: &str = "names";
/// The prefix of the names under which removed files are kept.
pub const KEPT: &str = "kept-";

#[derive(Debug, PartialEq, Eq)]
enum Change {
    FileMade(PathBuf),
    FolderMade(PathBuf),
    FileRemoved { path: PathBuf, kept: PathBuf },
    FolderRemoved(PathBuf),
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<PathBuf> },
}

/// Undoes everything that is not durable.
pub fn cut(undo: &Path, survives: Survives, random: &mut fastrand::Rng) {
    let journal = fs::read_to_string(undo.join(JOURNAL)).unwrap_or_default();
    let changes = not_synced(&journal);
    let mut of_folder: HashMap<PathBuf, usize> = HashMap::new();
    for change in &changes {
        *of_folder.entry(change.folder()).or_default() += 1;
    }
    if survives == Survives::SomePages {
        // In each directory, a random number of the latest changes is undone.
        let mut folders: Vec<_> = of_folder.iter_mut().collect();
        folders.sort();
        for (_, count) in folders {
            *count = random.usize(..=*count);
        }
    }
    for change in changes.iter().rev() {
        let left = of_folder.get_mut(&change.folder()).unwrap();
        if *left > 0 {
            *left -= 1;
            change.undo();
        }
    }
}

/// Returns the changes whose directory was not synced after them, in order.
fn not_synced(journal: &str) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    // The kill may have interrupted the journal itself: that change counts as durable.
    let whole = journal.rfind('\n').map_or("", |end| &journal[..end]);
    for line in whole.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let path = PathBuf::from(fields[1]);
        let kept = || PathBuf::from(fields[3]);
        changes.push(match fields[0] {
            "sync" => {
                changes.retain(|change| change.folder() != path);
                continue;
            }
            "create" => Change::FileMade(path),
            "mkdir" => Change::FolderMade(path),
            "remove" => Change::FileRemoved { path, kept: kept() },
            "rmdir" => Change::FolderRemoved(path),
            "rename" => {
                let replaced = Some(kept()).filter(|kept| *kept != PathBuf::new());
                Change::Renamed { from: path, to: PathBuf::from(fields[2]), replaced }
            }
            other => panic!("{other} is no change of a name"),
        });
    }
    changes
}

impl Change {
    fn folder(&self) -> PathBuf {
        let (Self::FileMade(path)
        | Self::FolderMade(path)
        | Self::FileRemoved { path, .. }
        | Self::FolderRemoved(path)
        | Self::Renamed { to: path, .. }) = self;
        path.parent().unwrap().to_owned()
    }

    /// Undoes the change. A name that is no longer as the change left it was changed without being
    /// recorded, and stays.
    fn undo(&self) {
        match self {
            Self::FileMade(path) => _ = fs::remove_file(path),
            Self::FolderMade(path) => _ = fs::remove_dir_all(path),
            Self::FileRemoved { path, kept } => come_back(kept, path),
            Self::FolderRemoved(path) => _ = fs::create_dir(path),
            Self::Renamed { from, to, replaced } => {
                come_back(to, from);
                if let Some(replaced) = replaced {
                    come_back(replaced, to);
                }
            }
        }
    }
}

fn come_back(kept: &Path, path: &Path) {
    if !path.exists() {
        _ = fs::rename(kept, path);
    }
}
