//! Frames, segments and damaged logs for the fuzz targets. See [`crate::fuzzing`].
//!
//! The functions panic if the log breaks a promise. Rejected bytes are fine.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a broken promise has to end the run")]

use std::{fs, path::Path};

use bytes::Bytes;

use super::{
    Cursor, Damage, Frame, LogOffset, OpenError, ReadFrame, Salvage,
    frame::{self, FrameKind, FramePlace, HASH_BYTES, HEADER_BYTES, Header, Salt},
    recover, segment,
};
use crate::event::{ChainHash, Position};

mod script;

pub use script::damage;

const SALT: Salt = [7; 16];

/// Parses the bytes as a frame. Then makes a frame of them, with a correct checksum and correct
/// hashes, since chance never produces these: the first byte is the kind, and the rest is the
/// payload.
pub fn frames(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    if let Ok((header, frame)) = frame::parse(&SALT, segment::HEADER_BYTES, &whole) {
        kept(&whole.slice(..header.frame_bytes()), &frame);
    }
    let Some((kind, payload)) = bytes.split_first() else { return };
    let (kind, entries) = match kind % 3 {
        0 => (FrameKind::Append, 12),
        1 => (FrameKind::Snapshot, 8),
        _ => (FrameKind::Mark, payload.len()),
    };
    let mut payload = payload.to_vec();
    mend_hashes(payload.get_mut(entries..).unwrap_or_default());
    let mut written = Vec::new();
    let place = FramePlace { offset: 64, group_offset: 64 };
    frame::write(&mut written, &SALT, place, kind, |out| out.extend_from_slice(&payload));
    let written = Bytes::from(written);
    if let Ok((header, frame)) = frame::parse(&SALT, place.offset, &written) {
        assert_eq!(header.frame_bytes(), written.len());
        kept(&written, &frame);
    }
    assert!(frame::parse(&SALT, place.offset + 1, &written).is_err(), "taken at another offset");
}

/// Corrects the hash after each record, as far as the lengths lead.
fn mend_hashes(entries: &mut [u8]) {
    let Some(mut hash) = entries.get(..HASH_BYTES).and_then(ChainHash::from_slice) else { return };
    let mut at = HASH_BYTES;
    while let Some(length) = entries.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let start = at + 4;
        let Some(slot) = entries.get(start + length..start + length + HASH_BYTES) else { return };
        let end = start + length + slot.len();
        hash = hash.chain(&entries[start..start + length]);
        entries[start + length..end].copy_from_slice(&hash.0);
        at = end;
    }
}

/// Checks that each record of a frame can be read on its own at the offset that the frame gives for
/// it.
fn kept(bytes: &Bytes, frame: &Frame) {
    let records = match frame {
        Frame::Append { records, .. } => records.as_slice(),
        Frame::Snapshot { record, .. } => std::slice::from_ref(record),
        Frame::Mark(_) => &[],
    };
    for record in records {
        let offset = usize::try_from(record.offset).expect("an offset in memory");
        let length = HASH_BYTES
            + usize::try_from(frame::entry_bytes(record.place(LogOffset::START).length)).expect("so");
        let alone = bytes.slice(offset - HASH_BYTES..offset - HASH_BYTES + length);
        assert_eq!(frame::parse_entry(alone), Some((record.bytes.clone(), record.hash)));
    }
}

/// Opens the bytes as the only segment in an empty directory. If the first byte is even, they are
/// used as they are. Otherwise they follow a valid header, and the checksums of their frames are
/// corrected.
pub fn segments(folder: &Path, bytes: &[u8]) {
    let Some((mode, bytes)) = bytes.split_first() else { return };
    let bytes = if mode % 2 == 0 { bytes.to_vec() } else { with_checksums(bytes) };
    let path = segment::path(folder, 1);
    fs::write(&path, &bytes).expect("written");
    let salvaged = salvaged(folder);
    match recover(folder, None) {
        Err(OpenError::Damage(_) | OpenError::Newer(_)) => {
            assert_eq!(fs::read(&path).expect("read"), bytes, "a refused log was touched")
        }
        Err(error) => unreachable!("{error}"),
        Ok(recovered) => {
            assert!(recovered.end.offset <= bytes.len().max(segment::HEADER_BYTES as usize) as u64);
            let (read, _) = read_up_to(&recovered, Cursor::new(recovered.segments.clone(), LogOffset::START));
            assert!(salvaged.starts_with(&read), "salvage misses a whole frame");
            read.iter().for_each(|read| records_alone(&recovered, read));
            let again = recover(folder, None).expect("a mended log");
            assert_eq!(again.end, recovered.end);
        }
    }
}

fn with_checksums(frames: &[u8]) -> Vec<u8> {
    let mut bytes = segment::header(1, &SALT);
    bytes.extend_from_slice(frames);
    let mut at = segment::HEADER_BYTES as usize;
    while let Some(header) = bytes.get(at..).and_then(|rest| Header::parse(rest).ok()) {
        let Some(frame) = bytes.get_mut(at..at + header.frame_bytes()) else { break };
        let (head, payload) = frame.split_at_mut(HEADER_BYTES);
        let crc = frame::checksum(&SALT, at as u64, head, payload);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        at += header.frame_bytes();
    }
    bytes
}

/// Returns the frames that salvage finds, and their offsets.
fn salvaged(folder: &Path) -> Vec<(LogOffset, Frame)> {
    let salvage = Salvage::open_last(folder, 1).expect("a file that is there");
    salvage.into_iter().flatten().map(|read| (read.start, read.frame)).collect()
}

/// Reads all frames, or those before the first that does not continue the previous one.
fn read_up_to(recovered: &super::Recovered, mut cursor: Cursor) -> (Vec<(LogOffset, Frame)>, Option<Damage>) {
    let mut frames = Vec::new();
    loop {
        match cursor.next(recovered.end) {
            Ok(Some(ReadFrame { frame, start, .. })) => frames.push((start, frame)),
            Ok(None) => return (frames, None),
            Err(super::ReadError::Damage(damage)) => return (frames, Some(damage)),
            Err(error) => unreachable!("{error}"),
        }
    }
}

fn records_alone(recovered: &super::Recovered, (start, frame): &(LogOffset, Frame)) {
    let records = match frame {
        Frame::Append { records, .. } => records.as_slice(),
        Frame::Snapshot { record, .. } => std::slice::from_ref(record),
        Frame::Mark(_) => &[],
    };
    for record in records {
        let read = recovered.segments.read(record.place(*start)).expect("a record of a whole frame");
        assert_eq!((&read.bytes, read.hash), (&record.bytes, record.hash));
    }
}

/// Returns a cursor over a whole log that the fuzz target wrote itself.
fn from_start(recovered: &super::Recovered) -> Cursor {
    Cursor::after(recovered.segments.clone(), LogOffset::START, Position(0), ChainHash::START)
}
