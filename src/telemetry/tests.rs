//! Tests of the log outputs: the level, escaping, rotation, and what happens when an output is slow
//! or cannot be written.

use std::fs;
use std::sync::Mutex;
use std::sync::mpsc;

use tracing::{info, info_span};

use super::*;

fn settings(folder: &Path) -> Settings {
    Settings { folder: folder.to_owned(), level: "info".into(), file_bytes_max: 10 << 20, files_max: 5 }
}

#[test]
fn misspelt_levels_are_refused() {
    for level in ["info", "WARN", "off", "info,tonic=warn", "debug,[append{id=1}]=trace"] {
        assert!(filter(level).is_ok(), "{level}");
    }
    for level in ["", " ", "inof", "info,tonic", "tonic=wran"] {
        assert!(filter(level).is_err(), "{level}");
    }
}

#[test]
fn file_has_whole_plain_lines_and_none_below_the_level() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, output) = Output::new("test", open(&settings(folder.path())).unwrap(), Colours::None);
    let level = filter("info").unwrap();
    let (coloured, _filter) = subscriber(level, io::sink, true, Some(writer));
    tracing::subscriber::with_default(coloured, || {
        let _span = info_span!("append", aggregate = "room-1").entered();
        info!(position = 7, "stored");
        tracing::debug!("not written");
    });
    drop(output);

    let text = fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("stored"), "{text}");
    assert!(text.contains("position=7"), "{text}");
    assert!(text.contains("aggregate=\"room-1\""), "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");
}

/// A name from a client may contain anything.
#[test]
fn text_of_callers_neither_acts_on_the_terminal_nor_makes_lines() {
    // Red is a colour that the formatter uses too, but not for the level INFO.
    const HOSTILE: &str = "x\x1b[2J\x1b[31m\u{9b}31m\u{202e}\u{2066}\u{2028}\u{feff}\u{85}y\nERROR forged";
    const ACTING: [char; 6] = ['\u{9b}', '\u{202e}', '\u{2066}', '\u{2028}', '\u{feff}', '\u{85}'];
    for colours in [Colours::None, Colours::Ansi] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let (writer, output) = Output::new("test", fs::File::create(&path).unwrap(), colours);
        let ansi = colours == Colours::Ansi;
        let (subscriber, _filter) = subscriber(filter("info").unwrap(), writer, ansi, None);
        tracing::subscriber::with_default(subscriber, || {
            let _span = info_span!("append", aggregate = HOSTILE, other = %HOSTILE).entered();
            let error = io::Error::other(HOSTILE);
            info!(actor = HOSTILE, id = %HOSTILE, %error, "refused: {HOSTILE}");
        });
        drop(output);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.contains("\x1b[2J") && !text.contains("\x1b[31m"), "{text:?}");
        assert!(!text.contains(ACTING), "{text:?}");
        assert_eq!(text.contains('\x1b'), ansi, "{text:?}");
        assert!(text.contains("forged"), "{text:?}");
    }
}

#[test]
fn files_are_bounded_in_size_and_number() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { file_bytes_max: 100, files_max: 3, ..settings(folder.path()) };
    let line = [b'x'; 40];
    for _ in 0..2 {
        let mut file = open(&settings).unwrap();
        for _ in 0..50 {
            file.write_all(&line).unwrap();
        }
    }

    let mut names = Vec::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let bytes = entry.metadata().unwrap().len() as usize;
        assert!(bytes <= settings.file_bytes_max + line.len(), "{bytes}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["system.log", "system.log.1", "system.log.2"]);
}

#[test]
fn a_folder_that_cannot_be_written_to_leaves_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(open(&settings(&file.join("logs"))).is_err());

    fs::create_dir(folder.path().join(FILE_NAME)).unwrap();
    let guard = init(&settings(folder.path())).unwrap();
    assert_eq!(guard.outputs.len(), 1);
    let again = init(&settings(folder.path()));
    assert!(matches!(again, Err(TelemetryError::AlreadyInitialised)));
}

#[test]
fn a_writer_that_hangs_costs_lines_and_no_waiting() {
    let (release, released) = mpsc::channel::<()>();
    let hanging = Hanging(Mutex::new(released));
    let (mut writer, output) = Output::new("test", hanging, Colours::None);
    for _ in 0..LINES_WAITING_MAX + 100 {
        writer.write_all(b"line\n").unwrap();
    }
    // The thread may have taken one line from the queue before it blocked.
    assert!([99, 100].contains(&output.lines_lost()));
    drop(release);
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let (release, released) = mpsc::channel::<()>();
    drop(release);
    let (mut writer, output) = Output::new("test", Hanging(Mutex::new(released)), Colours::None);
    let failed = output.failed.clone();
    writer.write_all(b"line\n").unwrap();
    drop(output);
    assert_eq!(failed.load(Ordering::Relaxed), 1);
}

/// Blocks until it may write, and fails once the sender is dropped.
struct Hanging(Mutex<mpsc::Receiver<()>>);

impl Write for Hanging {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let leave = self.0.lock().unwrap().recv();
        leave.map(|()| line.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
