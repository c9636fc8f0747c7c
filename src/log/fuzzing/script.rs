//! Writes and damages a log as a script of bytes directs, and checks what recovery and salvage make
//! of it.

use std::{fs, path::Path};

use bytes::Bytes;

use super::{from_start, read_up_to, salvaged};
use crate::log::{Frame, Group, Log, LogOffset, OpenError, Tip, recover, segment};

/// More steps would only be slow.
const STEPS_MAX: usize = 40;

/// A frame that was written.
struct WrittenFrame {
    start: u64,
    end: u64,
    /// The start of the frames that one sync made durable together.
    group: u64,
}

/// Writes a log into an empty directory, damages it, and opens it. Half of the logs are closed
/// cleanly. The others have preallocated space after their frames.
pub fn damage(folder: &Path, script: &[u8]) {
    let is_closed = script.len().is_multiple_of(2);
    let mut script = Script(script);
    let (written, tip, log) = write(folder, &mut script);
    if is_closed {
        log.close().expect("closed")
    } else {
        drop(log)
    }
    let path = segment::path(folder, 1);
    let whole = fs::read(&path).expect("the segment");
    let frames = salvaged(folder);
    let starts: Vec<u64> = frames.iter().map(|(start, _)| start.offset).collect();
    assert_eq!(starts, written.iter().map(|frame| frame.start).collect::<Vec<_>>());

    let damaged = script.damage(&whole, tip.end.offset);
    fs::write(&path, &damaged).expect("written");
    let is_whole = |frame: &WrittenFrame| {
        let range = usize::try_from(frame.start).expect("so")..usize::try_from(frame.end).expect("so");
        damaged.get(range.clone()) == whole.get(range)
    };
    let left: Vec<bool> = written.iter().map(is_whole).collect();
    let salvageable: Vec<_> =
        left.iter().zip(&frames).filter(|(left, _)| **left).map(|(_, frame)| frame).collect();
    assert_eq!(salvaged(folder).iter().collect::<Vec<_>>(), salvageable, "salvage");

    let first_bad = left.iter().position(|left| !left);
    if first_bad.is_some() {
        // The index has seen all frames: none of them may be mistaken for a torn tail.
        refused(folder, &damaged, Some(tip.end));
    }
    let synced = first_bad.is_some_and(|bad| {
        let later = |(frame, left): (&WrittenFrame, &bool)| *left && frame.group > written[bad].start;
        written.iter().zip(&left).skip(bad).any(later)
    });
    if synced {
        refused(folder, &damaged, None);
    } else {
        taken(
            folder,
            &damaged,
            &frames[..first_bad.unwrap_or(frames.len())],
            first_bad.map_or(tip.end.offset, |bad| written[bad].start),
        );
    }
}

fn refused(folder: &Path, damaged: &[u8], seen: Option<LogOffset>) {
    let refusal = recover(folder, seen).expect_err("damage of what was synced");
    // Cut at the end of a whole frame, the log may as well be an older copy.
    assert!(matches!(refusal, OpenError::Damage(_) | OpenError::Older { .. }), "{refusal}");
    assert_eq!(fs::read(segment::path(folder, 1)).expect("the segment"), damaged, "damage was touched");
}

/// Checks that everything before the damage is kept, and that the rest is saved next to the
/// segment.
fn taken(folder: &Path, damaged: &[u8], frames: &[(LogOffset, Frame)], end: u64) {
    for _ in 0..2 {
        let recovered = recover(folder, None).expect("a torn tail is no damage");
        assert_eq!(recovered.end, LogOffset { segment: 1, offset: end });
        let (read, damage) = read_up_to(&recovered, from_start(&recovered));
        assert_eq!((read.as_slice(), damage), (frames, None));
    }
    let path = segment::path(folder, 1);
    let mut kept = fs::read(&path).expect("the segment");
    kept.extend(fs::read(path.with_extension(format!("torn-{end}"))).unwrap_or_default());
    let (without_space, space) = damaged.split_at(kept.len());
    assert_eq!(kept, without_space);
    assert!(space.iter().all(|byte| *byte == 0), "more than space was cut off");
}

fn write(folder: &Path, script: &mut Script) -> (Vec<WrittenFrame>, Tip, Log) {
    let mut log = Log::new(recover(folder, None).expect("an empty folder"), Tip::START, u64::MAX);
    let mut written = Vec::new();
    let mut group_start = log.tip().end.offset;
    let mut group = log.begin().expect("a group");
    for _ in 0..STEPS_MAX {
        let start = group.tip().end.offset;
        match script.byte() % 8 {
            0 | 1 => _ = group.append(&script.records()).expect("a small frame"),
            2 => _ = group.snapshot(script.bytes()).expect("a small frame"),
            3 => group.mark(script.bytes()),
            // A record that is a copy of frames must never be mistaken for them.
            4 => _ = group.append(&[copied(folder, &group)]).expect("a small frame"),
            5 => {
                log.write(group).expect("written");
                group_start = start;
                group = log.begin().expect("a group");
                continue;
            }
            6 => {
                log.write_unsynced(group).expect("written");
                group = log.begin().expect("a group");
                continue;
            }
            _ => break,
        }
        written.push(WrittenFrame { start, end: group.tip().end.offset, group: group_start });
    }
    log.write(group).expect("written");
    (written, log.tip(), log)
}

fn copied(folder: &Path, group: &Group) -> Bytes {
    let mut bytes = fs::read(segment::path(folder, 1)).expect("the segment");
    bytes.extend_from_slice(group.bytes());
    bytes.truncate(4096);
    Bytes::from(bytes)
}

/// The bytes that direct a run. Once they are used up, nothing more is written.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 7 };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    fn records(&mut self) -> Vec<Bytes> {
        let count = 1 + self.byte() % 3;
        (0..count).map(|_| Bytes::copy_from_slice(self.bytes())).collect()
    }

    /// Applies the rest of the script: each item is an offset after the header, within the frames
    /// or shortly after them, and the change to the byte there. Zero truncates the file.
    fn damage(&mut self, whole: &[u8], frames_end: u64) -> Vec<u8> {
        const HEADER_BYTES: usize = segment::HEADER_BYTES as usize;
        let mut damaged = whole.to_vec();
        while let [low, high, change, rest @ ..] = self.0 {
            self.0 = rest;
            let near = usize::try_from(frames_end).expect("so") + HEADER_BYTES;
            let room = damaged.len().min(near) - HEADER_BYTES;
            if room == 0 {
                break;
            }
            let at = HEADER_BYTES + usize::from(u16::from_le_bytes([*low, *high])) % room;
            match change {
                0 => damaged.truncate(at),
                change => damaged[at] ^= change,
            }
        }
        damaged
    }
}
