//! Tracks which requests on a connection have no answer yet.
//!
//! It reads only the frames of HTTP/2 (RFC 9113, section 4), not the messages in them.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
/// An error code: the client no longer wants the answer.
const CANCEL: u32 = 8;

/// The streams whose request is complete and whose answer is not. Both directions of a connection
/// share this set.
#[derive(Clone)]
pub(super) struct OpenRequests(Arc<watch::Sender<BTreeSet<u32>>>);

impl OpenRequests {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }

    /// Records the streams that the client has ended. Returns the number of requests that this
    /// completes.
    pub(super) fn asked(&self, frames: &mut Frames, bytes: &[u8]) -> usize {
        let mut asked = 0;
        frames.read(bytes, |stream, end| {
            self.0.send_modify(|open| match end {
                End::Whole => asked += usize::from(open.insert(stream)),
                End::Reset => _ = open.remove(&stream),
            });
        });
        asked
    }

    /// Records the streams that ImmuDB has ended. Returns the number of requests that this answers.
    pub(super) fn answered(&self, frames: &mut Frames, bytes: &[u8]) -> usize {
        let mut answered = 0;
        frames.read(bytes, |stream, _| {
            self.0.send_modify(|open| answered += usize::from(open.remove(&stream)));
        });
        answered
    }

    /// Cancels the first request among these frames, as a client does that times out after it has
    /// sent the headers.
    pub(super) fn cancel_first(&self, bytes: &mut Vec<u8>, first_frame: usize) {
        let Some((before, mut rest)) = bytes.split_at_checked(first_frame) else { return };
        let (mut cancelled, mut kept) = (None, before.to_vec());
        while let Some((header, behind)) = rest.split_at_checked(HEADER_BYTES) {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let Some((payload, behind)) = behind.split_at_checked(length) else { break };
            let stream = u32::from_be_bytes(header[5..].try_into().unwrap());
            match header[3] {
                HEADERS if cancelled.is_none() => {
                    cancelled = Some(stream);
                    kept.extend_from_slice(&[header, payload].concat());
                    kept.extend_from_slice(&[0, 0, 4, RST_STREAM, 0]);
                    kept.extend_from_slice(&stream.to_be_bytes());
                    kept.extend_from_slice(&CANCEL.to_be_bytes());
                }
                // The headers are in one frame, because this service sends small ones.
                _ if cancelled == Some(stream) => {}
                _ => kept.extend_from_slice(&[header, payload].concat()),
            }
            rest = behind;
        }
        kept.extend_from_slice(rest);
        *bytes = kept;
        if let Some(stream) = cancelled {
            self.0.send_modify(|open| _ = open.remove(&stream));
        }
    }

    /// Records that no more answers will come.
    pub(super) fn give_up(&self) {
        self.0.send_modify(BTreeSet::clear);
    }

    pub(super) async fn none_left(&self) {
        self.0.subscribe().wait_for(BTreeSet::is_empty).await.unwrap();
    }
}

enum End {
    Whole,
    Reset,
}

/// One direction of a connection, split into frames.
pub(super) struct Frames {
    header: Vec<u8>,
    /// Bytes to skip before the next header.
    skip: usize,
    /// The stream that ends once these bytes have arrived.
    ending: Option<(u32, End)>,
}

impl Frames {
    pub(super) fn of_client() -> Self {
        Self { header: Vec::new(), skip: PREFACE_BYTES, ending: None }
    }

    pub(super) fn of_server() -> Self {
        Self { header: Vec::new(), skip: 0, ending: None }
    }

    /// Returns how many bytes of the current frame are still to come. Returns `None` if its header
    /// is incomplete.
    pub(super) fn next_begins_at(&self) -> Option<usize> {
        self.header.is_empty().then_some(self.skip)
    }

    /// Calls `ended` for each stream whose last frame is completed by these bytes.
    fn read(&mut self, mut bytes: &[u8], mut ended: impl FnMut(u32, End)) {
        while !bytes.is_empty() {
            let wanted = if self.skip > 0 { self.skip } else { HEADER_BYTES - self.header.len() };
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.skip > 0 {
                self.skip -= taken.len();
            } else {
                self.header.extend_from_slice(taken);
                self.read_header();
            }
            if self.skip == 0
                && let Some((stream, end)) = self.ending.take()
            {
                ended(stream, end);
            }
        }
    }

    fn read_header(&mut self) {
        let [a, b, c, kind, flags, w, x, y, z] = self.header[..] else { return };
        let stream = u32::from_be_bytes([w, x, y, z]) & 0x7fff_ffff;
        self.header.clear();
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        self.ending = match kind {
            DATA | HEADERS if flags & END_STREAM != 0 => Some((stream, End::Whole)),
            RST_STREAM => Some((stream, End::Reset)),
            _ => None,
        };
    }
}
