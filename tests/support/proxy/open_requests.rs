//! Which requests on a connection have no answer yet, read off the frames of HTTP/2 (RFC 9113, section 4).

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// The streams whose request is whole and whose answer is not. Both directions of a connection share it.
#[derive(Clone)]
pub struct OpenRequests(Arc<watch::Sender<BTreeSet<u32>>>);

impl OpenRequests {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }

    /// Notes which streams the caller has ended; tells how many whole requests that makes.
    pub fn asked(&self, frames: &mut Frames, bytes: &[u8]) -> usize {
        let mut asked = 0;
        frames.read(bytes, |stream, end| {
            self.0.send_modify(|open| match end {
                End::Whole => asked += usize::from(open.insert(stream)),
                End::Reset => _ = open.remove(&stream),
            });
        });
        asked
    }

    pub fn answered(&self, frames: &mut Frames, bytes: &[u8]) {
        frames.read(bytes, |stream, _| self.0.send_modify(|open| _ = open.remove(&stream)));
    }

    /// No answer will come any more.
    pub fn give_up(&self) {
        self.0.send_modify(BTreeSet::clear);
    }

    pub async fn none_left(&self) {
        self.0.subscribe().wait_for(BTreeSet::is_empty).await.unwrap();
    }
}

enum End {
    Whole,
    Reset,
}

/// One direction of a connection, cut into frames.
pub struct Frames {
    header: Vec<u8>,
    /// Bytes before the next header.
    skip: usize,
    /// The stream that has ended once these bytes are here.
    ending: Option<(u32, End)>,
}

impl Frames {
    pub fn of_client() -> Self {
        Self { header: Vec::new(), skip: PREFACE_BYTES, ending: None }
    }

    pub fn of_server() -> Self {
        Self { header: Vec::new(), skip: 0, ending: None }
    }

    /// Calls `ended` for each stream whose last frame becomes whole with these bytes.
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
