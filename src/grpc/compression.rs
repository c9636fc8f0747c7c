//! Compressed requests: unpacked here, piece by piece, so that what they unpack to counts as it grows, and one large
//! message holds nobody else up.

use std::io::{self, Read};

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Reader};
use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use tonic::Status;
use zstd::stream::read::Decoder;

use super::{byte_budget::CallBytes, status};

/// What a request may be compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Gzip,
    Zstd,
}

/// Of the header `grpc-accept-encoding`.
pub const ACCEPTED: &str = "identity,gzip,zstd";

pub const ENCODING: &str = "grpc-encoding";

/// An encoding that is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown(pub String);

impl Encoding {
    /// What the headers of a request say.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Unknown> {
        match headers.get(ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => Ok(None),
            Some(b"gzip") => Ok(Some(Self::Gzip)),
            Some(b"zstd") => Ok(Some(Self::Zstd)),
            Some(other) => Err(Unknown(String::from_utf8_lossy(other).chars().take(64).collect())),
        }
    }

    fn decoder(self, packed: Bytes) -> io::Result<Box<dyn Read + Send>> {
        /// As much as a decoder may have in memory: 8 MiB, which the format's description asks of decoders.
        const WINDOW_LOG_MAX: u32 = 23;
        let packed = packed.reader();
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder: Decoder<'static, Reader<Bytes>> = Decoder::with_buffer(packed)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        })
    }
}

const PREFIX_BYTES: usize = 5;

/// A request's messages, of which some are packed.
pub struct Unpacking {
    encoding: Encoding,
    /// A message may unpack to so many.
    message_bytes_max: usize,
    received: BytesMut,
    packed: Option<Packed>,
    /// Unpacked so far, of all messages.
    unpacked_bytes: usize,
}

struct Packed {
    decoder: Box<dyn Read + Send>,
    message: Vec<u8>,
}

/// What comes of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// For this, more has to be received.
    Wait,
    /// There is more to do.
    GoOn,
    /// A message as it would have been without compression.
    Message(Bytes),
}

impl Unpacking {
    pub fn new(encoding: Encoding, message_bytes_max: usize) -> Self {
        Self { encoding, message_bytes_max, received: BytesMut::new(), packed: None, unpacked_bytes: 0 }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// What is left where nothing is received any more: the start of a message.
    pub fn rest(&mut self) -> Bytes {
        self.received.split().freeze()
    }

    /// Unpacks a little.
    ///
    /// # Errors
    /// It can't be unpacked, or there are no bytes for it: `received` bytes came in so far.
    pub fn step(&mut self, received: usize, bytes: &CallBytes) -> Result<Step, Status> {
        /// Unpacked at a time.
        const STEP_BYTES: usize = 64 * 1024;
        let Some(packed) = &mut self.packed else { return self.begin() };
        // Of the memory that is made when a message grows, the old and the new are there together.
        let all = received.saturating_add(self.unpacked_bytes).saturating_add(2 * STEP_BYTES);
        bytes.resize(all.saturating_add(packed.message.len().saturating_mul(2)))?;
        let before = packed.message.len();
        let read = packed.decoder.by_ref().take(STEP_BYTES as u64).read_to_end(&mut packed.message);
        let read = read.map_err(|_| status::not_unpackable())?;
        let whole = packed.message.len();
        if read == 0 || whole > self.message_bytes_max {
            let message = std::mem::take(&mut packed.message);
            self.packed = None;
            self.unpacked_bytes = self.unpacked_bytes.saturating_add(before);
            return Ok(Step::Message(self.unpacked(message)));
        }
        Ok(Step::GoOn)
    }

    fn begin(&mut self) -> Result<Step, Status> {
        const PACKED: u8 = 1;
        let Some(mut prefix) = self.received.get(..PREFIX_BYTES) else { return Ok(Step::Wait) };
        let (flag, length) = (prefix.get_u8(), prefix.get_u32() as usize);
        if length > self.message_bytes_max {
            // Refused by its prefix, like any that is too large.
            return Ok(Step::Message(head(length)));
        }
        let whole = PREFIX_BYTES.saturating_add(length);
        if self.received.len() < whole {
            return Ok(Step::Wait);
        }
        let mut message = self.received.split_to(whole).freeze();
        if flag != PACKED {
            return Ok(Step::Message(message));
        }
        message.advance(PREFIX_BYTES);
        let decoder = self.encoding.decoder(message).map_err(|_| status::not_unpackable())?;
        self.packed = Some(Packed { decoder, message: Vec::new() });
        Ok(Step::GoOn)
    }

    fn unpacked(&self, message: Vec<u8>) -> Bytes {
        if message.len() > self.message_bytes_max {
            return head(message.len());
        }
        let mut framed = BytesMut::with_capacity(PREFIX_BYTES.saturating_add(message.len()));
        framed.put_slice(&head(message.len()));
        framed.put_slice(&message);
        framed.freeze()
    }
}

/// The prefix of a message of so many bytes.
fn head(length: usize) -> Bytes {
    let mut head = BytesMut::with_capacity(PREFIX_BYTES);
    head.put_u8(0);
    head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    head.freeze()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{
        grpc::byte_budget::{ByteBudget, Purpose},
        shared_limit::Caller,
    };

    const MAX: usize = 1 << 20;

    fn pack(encoding: Encoding, message: &[u8]) -> Vec<u8> {
        let packed = match encoding {
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(message).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Zstd => zstd::encode_all(message, 3).unwrap(),
        };
        [&[1][..], &(packed.len() as u32).to_be_bytes(), &packed].concat()
    }

    fn unpack(encoding: Encoding, framed: &[u8], budget: &ByteBudget) -> Result<Vec<Bytes>, Status> {
        let bytes = budget.of_call(&Caller::default(), Purpose::Request);
        let mut unpacking = Unpacking::new(encoding, MAX);
        let mut messages = Vec::new();
        for piece in framed.chunks(7) {
            unpacking.receive(piece);
            loop {
                match unpacking.step(framed.len(), &bytes)? {
                    Step::Wait => break,
                    Step::GoOn => {}
                    Step::Message(message) => messages.push(message),
                }
            }
        }
        Ok(messages)
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let budget = ByteBudget::new(64 << 20);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            for length in [0usize, 1, 1000, 300_000, MAX] {
                let message: Vec<u8> = (0..length).map(|at| (at / 3) as u8).collect();
                let plain = [&head(5)[..], b"plain"].concat();
                let framed = [pack(encoding, &message), plain.clone(), pack(encoding, &message)].concat();
                let unpacked = unpack(encoding, &framed, &budget).unwrap();
                let expected = Bytes::from([&head(length)[..], &message].concat());
                assert_eq!(unpacked, [expected.clone(), Bytes::from(plain), expected]);
            }
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_message_that_unpacks_to_too_much_is_refused_by_its_length() {
        let budget = ByteBudget::new(64 << 20);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let bomb = pack(encoding, &vec![0; 64 * MAX]);
            assert!(bomb.len() < MAX / 8, "{}", bomb.len());
            let refused = unpack(encoding, &bomb, &budget).unwrap();
            let length = u32::from_be_bytes(refused[0][1..5].try_into().unwrap()) as usize;
            assert!(refused[0].len() == 5 && length > MAX && length < 2 * MAX);
        }
    }

    #[test]
    fn what_a_message_unpacks_to_is_acquired_before_it_is_there() {
        let budget = ByteBudget::new(MAX / 2);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let refused = unpack(encoding, &pack(encoding, &vec![0; MAX]), &budget).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn rubbish_is_an_error() {
        let budget = ByteBudget::new(64 << 20);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let rubbish = [&[1, 0, 0, 0, 10][..], b"no archive"].concat();
            assert_eq!(unpack(encoding, &rubbish, &budget).unwrap_err().code(), tonic::Code::Internal);
            let mut cut = pack(encoding, &[7; 1000]);
            let length = cut.len() as u32 - 5 - 4;
            cut.truncate(cut.len() - 4);
            cut[1..5].copy_from_slice(&length.to_be_bytes());
            assert_eq!(unpack(encoding, &cut, &budget).unwrap_err().code(), tonic::Code::Internal);
        }
    }
}
