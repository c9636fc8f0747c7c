//! Decompresses requests step by step.
//!
//! The decompressed bytes are counted as they grow, and a large message does not block other tasks.
//! A message that is too large is passed on as a prefix with its length, so that tonic rejects it
//! like any other.

use std::io::{self, Read};

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Reader};
use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use tonic::Status;
use zstd::stream::read::Decoder;

use super::byte_budget::CallBytes;
use crate::grpc::status;

/// A compression that requests may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The encoding `gzip`.
    Gzip,
    /// The encoding `zstd`.
    Zstd,
}

/// The value of the header `grpc-accept-encoding`.
pub const ACCEPTED: &str = "identity,gzip,zstd";

/// The header that names the compression of a request.
pub const ENCODING: &str = "grpc-encoding";

/// An encoding that is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownEncoding(pub String);

impl Encoding {
    /// Returns the compression named in the headers of a request, or `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if the encoding is not accepted.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, UnknownEncoding> {
        match headers.get(ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => Ok(None),
            Some(b"gzip") => Ok(Some(Self::Gzip)),
            Some(b"zstd") => Ok(Some(Self::Zstd)),
            Some(other) => Err(UnknownEncoding(String::from_utf8_lossy(other).chars().take(64).collect())),
        }
    }

    fn decoder(self, packed: Bytes) -> io::Result<Box<dyn Read + Send>> {
        /// Limits the memory of a decoder to 8 MiB, which the specification of the format asks
        /// decoders to support.
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

/// The messages of a request, some of which are compressed.
pub struct Decompressor {
    encoding: Encoding,
    /// The maximum size of a decompressed message.
    message_bytes_max: usize,
    received: BytesMut,
    packed: Option<MessageDecoder>,
    /// The decompressed bytes of all messages so far.
    unpacked_bytes: usize,
}

struct MessageDecoder {
    decoder: Box<dyn Read + Send>,
    message: Vec<u8>,
}

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum DecompressStep {
    /// More data must be received first.
    Wait,
    /// There is more to do.
    GoOn,
    /// A message as it would be without compression.
    Message(Bytes),
}

impl Decompressor {
    /// Begins a request, each of whose messages may have `message_bytes_max` decompressed bytes.
    pub fn new(encoding: Encoding, message_bytes_max: usize) -> Self {
        Self { encoding, message_bytes_max, received: BytesMut::new(), packed: None, unpacked_bytes: 0 }
    }

    /// Adds data as received, for the next steps.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// Returns the data that is left at the end of the request: the start of a message.
    pub fn rest(&mut self) -> Bytes {
        self.received.split().freeze()
    }

    /// Decompresses a bounded amount of data. `received` is the number of bytes received so far.
    ///
    /// # Errors
    /// Returns an error if the data cannot be decompressed, or if there are no bytes for it.
    pub fn step(&mut self, received: usize, bytes: &CallBytes) -> Result<DecompressStep, Status> {
        /// The number of bytes decompressed at a time.
        const STEP_BYTES: usize = 64 * 1024;
        let Some(packed) = &mut self.packed else { return self.begin() };
        // When the buffer of a message grows, the old and the new allocation exist at the same
        // time.
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
            return Ok(DecompressStep::Message(self.unpacked(message)));
        }
        Ok(DecompressStep::GoOn)
    }

    fn begin(&mut self) -> Result<DecompressStep, Status> {
        const PACKED: u8 = 1;
        let Some(mut prefix) = self.received.get(..PREFIX_BYTES) else { return Ok(DecompressStep::Wait) };
        let (flag, length) = (prefix.get_u8(), prefix.get_u32() as usize);
        if length > self.message_bytes_max {
            // Rejected because of its prefix, like any message that is too large.
            return Ok(DecompressStep::Message(head(length)));
        }
        let whole = PREFIX_BYTES.saturating_add(length);
        if self.received.len() < whole {
            return Ok(DecompressStep::Wait);
        }
        let mut message = self.received.split_to(whole).freeze();
        if flag != PACKED {
            return Ok(DecompressStep::Message(message));
        }
        message.advance(PREFIX_BYTES);
        let decoder = self.encoding.decoder(message).map_err(|_| status::not_unpackable())?;
        self.packed = Some(MessageDecoder { decoder, message: Vec::new() });
        Ok(DecompressStep::GoOn)
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

/// Returns the prefix of a message of `length` bytes.
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
        grpc::transport::byte_budget::{ByteBudget, Purpose},
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
        let mut unpacking = Decompressor::new(encoding, MAX);
        let mut messages = Vec::new();
        for piece in framed.chunks(7) {
            unpacking.receive(piece);
            loop {
                match unpacking.step(framed.len(), &bytes)? {
                    DecompressStep::Wait => break,
                    DecompressStep::GoOn => {}
                    DecompressStep::Message(message) => messages.push(message),
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
