//! A storage directory kept in memory, the ways to damage one of its files, and copies with one
//! such damage.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// A way to damage a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Damage {
    Flip { at: usize, mask: u8 },
    Cut(usize),
    Zero { page: usize },
    Extend,
    Remove,
}

const PAGE: usize = 4096;

impl Damage {
    fn apply(self, path: &Path, file: &File) {
        let mut bytes = file.used.clone();
        let mut length = file.length;
        match self {
            Self::Flip { at, mask } => bytes[at] ^= mask,
            Self::Cut(to) => {
                bytes.truncate(to);
                length = to as u64;
            }
            Self::Zero { page } => {
                let end = (page + PAGE).min(bytes.len());
                bytes[page..end].fill(0);
            }
            Self::Extend => {
                let rubbish: Vec<u8> = (0..200u8).map(|byte| byte.wrapping_mul(167) ^ 0x5a).collect();
                bytes.extend_from_slice(&rubbish);
                length = length.max(bytes.len() as u64);
            }
            Self::Remove => return fs::remove_file(path).unwrap(),
        }
        write(path, &bytes, length);
    }

    /// Returns whether the damage leaves nothing after it that could reveal what was lost.
    pub fn takes_the_end(self, file: &File) -> bool {
        match self {
            Self::Cut(_) | Self::Remove => true,
            Self::Zero { page } => page + PAGE >= file.used.len(),
            Self::Flip { .. } | Self::Extend => false,
        }
    }

    pub fn kind(self) -> &'static str {
        match self {
            Self::Flip { .. } => "flips",
            Self::Cut(_) => "cuts",
            Self::Zero { .. } => "zeroed pages",
            Self::Extend => "rubbish behind",
            Self::Remove => "removed",
        }
    }
}

/// A file up to its last non-zero byte: a preallocated file uses no more than that.
#[derive(Debug, Clone)]
pub struct File {
    pub path: PathBuf,
    pub used: Vec<u8>,
    length: u64,
}

fn write(path: &Path, bytes: &[u8], length: u64) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// All files of a directory.
#[derive(Debug)]
pub struct Image {
    pub files: Vec<File>,
    folders: Vec<PathBuf>,
    /// Checks of a copy only read the event files, so all copies share them.
    events: PathBuf,
}

impl Image {
    /// Reads `log` and `index` of a storage directory.
    pub fn take(storage: &Path) -> Self {
        let mut image = Self { files: Vec::new(), folders: Vec::new(), events: storage.join("events") };
        for part in ["log", "index"] {
            image.read_folder(storage, Path::new(part));
        }
        image.files.sort_by(|one, other| one.path.cmp(&other.path));
        image
    }

    fn read_folder(&mut self, storage: &Path, folder: &Path) {
        self.folders.push(folder.to_owned());
        for entry in fs::read_dir(storage.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.read_folder(storage, &path);
                continue;
            }
            let used = fs::read(entry.path()).unwrap();
            let length = used.len() as u64;
            self.files.push(File { path, used, length });
        }
    }

    /// Creates a new storage directory with one damaged file, in memory, where a sync costs
    /// nothing.
    pub fn copy(&self, damaged: Option<(&File, Damage)>, without_index: bool) -> TempDir {
        let memory = Path::new("/dev/shm");
        let copy = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        self.place(copy.path(), damaged, without_index);
        std::os::unix::fs::symlink(&self.events, copy.path().join("events")).unwrap();
        copy
    }

    /// Writes the files into a storage directory that has no log and no index.
    pub fn place(&self, storage: &Path, damaged: Option<(&File, Damage)>, without_index: bool) {
        let wanted = |path: &Path| !without_index || !path.starts_with("index");
        for folder in self.folders.iter().filter(|path| wanted(path)) {
            fs::create_dir_all(storage.join(folder)).unwrap();
        }
        for file in self.files.iter().filter(|file| wanted(&file.path)) {
            let path = storage.join(&file.path);
            write(&path, &file.used, file.length);
            if let Some((damaged, damage)) = damaged
                && damaged.path == file.path
            {
                damage.apply(&path, file);
            }
        }
    }
}

impl File {
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub fn is_log(&self) -> bool {
        self.path.starts_with("log")
    }

    /// Returns the kind of the file, for the figures.
    pub fn kind(&self) -> &'static str {
        let name = self.path.file_name().unwrap().to_str().unwrap();
        match name {
            _ if name.ends_with(".segment") => "segments",
            _ if name.ends_with(".index") => "files",
            "tip" => "the note of the tip",
            _ => "others (locks, markers, writer ids)",
        }
    }

    /// Returns the damages to the file as a whole and to its ends, and those within it.
    pub fn damages(&self) -> (Vec<Damage>, Vec<Damage>) {
        let length = self.used.len();
        let mut ends = vec![Damage::Remove, Damage::Extend];
        if length > 0 {
            ends.extend([Damage::Cut(0), Damage::Cut(length - 1)]);
        }
        let mut marked = vec![false; length];
        // Every byte of small files, of both ends and of headers, and some of the rest.
        let step = (length / 400).max(1);
        (0..length).step_by(step).for_each(|at| marked[at] = true);
        (0..length.min(128)).for_each(|at| marked[at] = true);
        (length.saturating_sub(128)..length).for_each(|at| marked[at] = true);
        for frame in self.frames() {
            (frame..(frame + 72).min(length)).for_each(|at| marked[at] = true);
            ends.push(Damage::Cut(frame));
        }
        let mut within = Vec::new();
        for at in (0..length).filter(|at| marked[*at]) {
            within.push(Damage::Flip { at, mask: [0x01, 0x80, 0xff][at % 3] });
        }
        let cuts = (length / 100).max(1);
        within.extend((1..length).step_by(cuts).map(Damage::Cut));
        let pages = (0..length).step_by(PAGE);
        within.extend(pages.map(|page| Damage::Zero { page }));
        (ends, within)
    }

    /// Returns the offsets at which the frames of a segment begin.
    pub fn frames(&self) -> Vec<usize> {
        if self.kind() != "segments" {
            return Vec::new();
        }
        let starts = self.used.windows(4).enumerate().filter(|(_, window)| *window == b"AELF");
        starts.map(|(at, _)| at).collect()
    }
}
