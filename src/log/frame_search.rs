//! Finds whole frames in a segment whose contents may look like frames anywhere.
//!
//! The data that clients store may be full of frame headers, each of which claims a payload of
//! megabytes. Computing every checksum over them would take a minute. Therefore, the checksums up
//! to every [`STEP`]th byte are computed once, and the checksum of a candidate follows from two of
//! them: a checksum is linear, and the contribution of the bytes before a part is removed by
//! extending their checksum over the part's length.

use std::sync::LazyLock;

use bytes::Bytes;

use super::frame::{self, HEADER_BYTES, Header, Salt};

const STEP: usize = 512;

/// Lengths of payloads are below 2 to this power.
const LENGTH_BITS: usize = 32;

/// The bytes of a segment, prepared for searching.
#[derive(Debug)]
pub(super) struct FrameSearch {
    bytes: Bytes,
    salt: Salt,
    /// The checksum of the bytes up to each step.
    up_to_step: Vec<u32>,
}

/// For each power n, the value of each bit of a checksum after 2^n more zero bytes.
static OVER_ZEROS: LazyLock<[[u32; 32]; LENGTH_BITS]> = LazyLock::new(|| {
    std::array::from_fn(|power| std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, 1 << power)))
});

impl FrameSearch {
    pub(super) fn new(bytes: Bytes, salt: Salt) -> Self {
        let mut up_to_step = vec![0];
        let mut crc = 0;
        for step in bytes.chunks(STEP) {
            crc = crc32c::crc32c_append(crc, step);
            up_to_step.push(crc);
        }
        Self { bytes, salt, up_to_step }
    }

    /// Returns the header of the frame at `offset`, or `None` if there is no whole frame.
    pub(super) fn whole_frame(&self, offset: u64) -> Option<Header> {
        self.checked_header(offset)?;
        let start = usize::try_from(offset).ok()?;
        frame::parse(&self.salt, offset, &self.bytes.slice(start..)).ok().map(|(header, _)| header)
    }

    /// Returns the header of the frame at `offset`, or `None` if there is no frame with a correct
    /// checksum. The frame may have a version or a kind that the program does not know.
    pub(super) fn checked_header(&self, offset: u64) -> Option<Header> {
        let start = usize::try_from(offset).ok()?;
        let (_, header) = Header::of_any_version(self.bytes.get(start..)?).ok()?;
        let (payload, end) = (start.checked_add(HEADER_BYTES)?, start.checked_add(header.frame_bytes())?);
        let stored = self.bytes.get(start.checked_add(4)?..start.checked_add(8)?)?;
        let head = self.bytes.get(start..payload)?;
        if end > self.bytes.len() {
            return None;
        }
        let before = frame::checksum(&self.salt, offset, head, &[]) ^ self.up_to(payload)?;
        let checksum = moved(before, end.checked_sub(payload)?) ^ self.up_to(end)?;
        (stored == checksum.to_le_bytes()).then_some(header)
    }

    /// Returns the checksum of the bytes before `end`.
    fn up_to(&self, end: usize) -> Option<u32> {
        let step = end.checked_div(STEP)?;
        let rest = self.bytes.get(step.checked_mul(STEP)?..end)?;
        Some(crc32c::crc32c_append(*self.up_to_step.get(step)?, rest))
    }
}

/// Returns a checksum after `length` more zero bytes.
fn moved(mut crc: u32, length: usize) -> u32 {
    for (power, over) in OVER_ZEROS.iter().enumerate() {
        if length >> power & 1 == 1 {
            let bits = over.iter().enumerate().filter(|(bit, _)| crc >> bit & 1 == 1);
            crc = bits.fold(0, |sum, (_, column)| sum ^ column);
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::frame::{FrameKind, FramePlace};

    proptest! {
        #[test]
        fn a_frame_is_found_just_where_its_whole_checksum_is_right(
            before in prop::collection::vec(any::<u8>(), 0..3000),
            payload in prop::collection::vec(any::<u8>(), 0..9000),
            flipped in prop::option::of((any::<prop::sample::Index>(), 0u8..8)),
        ) {
            let salt = [7; 16];
            let offset = before.len() as u64;
            let mut bytes = before;
            let place = FramePlace { offset, group_offset: 0 };
            frame::write(&mut bytes, &salt, place, FrameKind::Mark, |out| out.extend_from_slice(&payload));
            bytes.extend_from_slice(&[1; 70]);
            if let Some((at, bit)) = flipped {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            let bytes = Bytes::from(bytes);
            let search = FrameSearch::new(bytes.clone(), salt);
            for at in 0..bytes.len() as u64 {
                let parsed = frame::parse(&salt, at, &bytes.slice(at as usize..)).ok().map(|(header, _)| header);
                prop_assert_eq!(search.whole_frame(at), parsed);
            }
        }
    }
}
