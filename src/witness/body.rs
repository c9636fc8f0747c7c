//! Reads the body of a message up to a limit.

use std::{future::poll_fn, pin::Pin};

use bytes::Bytes;
use http_body::Body;

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError<E> {
    TooLong,
    /// The connection failed, or the body is malformed.
    Incomplete(E),
}

/// Returns the body. Reads nothing more once it is longer than the limit.
pub(super) async fn read<B>(mut body: B, bytes_max: usize) -> Result<Vec<u8>, BodyError<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        // Other frames are trailers, which have no meaning here.
        if let Ok(data) = frame.map_err(BodyError::Incomplete)?.into_data() {
            if read.len().saturating_add(data.len()) > bytes_max {
                return Err(BodyError::TooLong);
            }
            read.extend_from_slice(&data);
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit() {
        assert_eq!(read(String::new(), 0).await, Ok(Vec::new()));
        assert_eq!(read("abc".to_owned(), 3).await, Ok(b"abc".to_vec()));
        assert_eq!(read("abcd".to_owned(), 3).await, Err(BodyError::TooLong));
    }
}
