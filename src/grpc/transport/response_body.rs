//! Sends a response in slices, and counts each piece until its memory is freed.
//!
//! The call counts as in progress until all of the response has been taken: an unread response is
//! memory, too.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::{
    byte_budget::CallBytes, concurrency::Admitted, peer::ResponseTracker, write_answer::SLICE_BYTES,
};

/// Returns the bytes that a piece needs while it is sent, in addition to its own: its last slice is
/// copied. A piece of one slice is not copied.
fn last_slice(piece_bytes: usize) -> usize {
    match piece_bytes {
        0..=SLICE_BYTES => 0,
        longer => (longer - 1) % SLICE_BYTES + 1,
    }
}

/// A response that is being sent. The call counts as in progress until all of the response has been
/// taken, and each piece counts until its memory is freed: an unread response is memory, too.
///
/// The response is sent in slices. The layer below takes a whole piece as soon as its client has
/// room for one byte, and may then keep it forever without any notice.
pub(super) struct ResponseBody {
    body: Body,
    /// The rest of the piece that is being sent.
    rest: Bytes,
    /// Whether part of the piece has been sent already.
    sliced: bool,
    answer: Arc<ResponseTracker>,
    /// The bytes of the read for the next piece, and then of the piece itself.
    bytes: CallBytes,
    /// Whether the response must not be withheld: the call has been carried out, and the bytes of
    /// its response are reserved, or few.
    settled: bool,
    over: bool,
    _admitted: Option<Admitted>,
}

impl ResponseBody {
    /// Sends `body`, and counts it in `bytes`. The call counts against the limits, through
    /// `admitted`, until the response ends.
    pub(super) fn new(
        body: Body,
        answer: ResponseTracker,
        bytes: CallBytes,
        settled: bool,
        admitted: Option<Admitted>,
    ) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            sliced: false,
            answer: Arc::new(answer),
            bytes,
            settled,
            over: false,
            _admitted: admitted,
        }
    }

    /// Returns a slice that keeps the call in progress until it is written, which may be long after
    /// this body has ended.
    fn slice(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Slice { bytes, answer: self.answer.clone() })
    }
}

struct Slice {
    bytes: Bytes,
    answer: Arc<ResponseTracker>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.answer.moved();
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.rest.is_empty() {
            self.answer.asked_for();
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            // The whole piece must be taken in time, however many slices it has.
            self.answer.handed_out();
            let piece = match frame.into_data() {
                Ok(piece) => piece,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            let last = last_slice(piece.len());
            let bytes = piece.len().saturating_add(last);
            if self.settled {
                // No more than was reserved before.
                self.bytes.force(bytes);
            } else if let Err(full) = self.bytes.resize(bytes) {
                self.over = true;
                let mut trailers = http::HeaderMap::new();
                return Poll::Ready(Some(full.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
            }
            self.rest = self.bytes.tie_and_leave(piece, last);
            self.sliced = false;
        }
        let slice = self.rest.len().min(SLICE_BYTES);
        if self.sliced && slice == self.rest.len() {
            // The last slice may remain unread forever although the next piece is requested. It
            // must not keep the memory of the whole piece alive.
            let rest = std::mem::take(&mut self.rest);
            let copy = self.bytes.tie(Bytes::copy_from_slice(&rest));
            return Poll::Ready(Some(Ok(Frame::data(self.slice(copy)))));
        }
        self.sliced = true;
        let slice = self.rest.split_to(slice);
        Poll::Ready(Some(Ok(Frame::data(self.slice(slice)))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || (self.rest.is_empty() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::{
        grpc::transport::{
            byte_budget::{ByteBudget, Purpose},
            peer::Peer,
            write_answer::reserve_answer,
        },
        shared_limit::Caller,
    };

    fn response_body(piece: &[u8], budget: &ByteBudget, settled: bool) -> ResponseBody {
        let body = Body::new(Full::new(Bytes::copy_from_slice(piece)).map_err(|never| match never {}));
        let answer = Peer::default().begin_call().answer(Purpose::Answer);
        let bytes = budget.of_call(&Caller::default(), Purpose::Answer);
        ResponseBody::new(body, answer, bytes, settled, None)
    }

    #[tokio::test]
    async fn a_piece_counts_until_its_last_slice_is_dropped() {
        let (budget, piece) = (ByteBudget::new(1 << 20), vec![7; 40_000]);
        let mut body = response_body(&piece, &budget, false);
        let mut slices = Vec::new();
        while let Some(frame) = body.frame().await {
            slices.push(frame.unwrap().into_data().unwrap());
            assert!(budget.used() >= piece.len() as u64);
        }
        let lengths: Vec<usize> = slices.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [SLICE_BYTES, SLICE_BYTES, 40_000 - 2 * SLICE_BYTES]);
        drop(body);
        assert_eq!(slices.concat(), piece);
        // The layer below keeps slices after the call has ended.
        let last = slices.pop().unwrap();
        drop(slices.split_off(1));
        assert_eq!(budget.used(), (piece.len() + last.len()) as u64);
        drop(slices);
        assert_eq!(budget.used(), last.len() as u64, "the last slice keeps the whole piece");
        drop(last);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_a_write_takes_no_more_than_was_reserved_for_it() {
        for bytes in [10, SLICE_BYTES, SLICE_BYTES + 1, 200_000] {
            let budget = ByteBudget::new(16 << 20);
            let mut call = Admitted::of(&tonic::Request::new(()));
            call.answer = budget.of_call(&Caller::default(), Purpose::WriteAnswer);
            reserve_answer(&call, bytes).await.unwrap();
            let reserved = budget.used();
            let body = response_body(&vec![7; bytes], &budget, true);
            let mut body = ResponseBody { bytes: call.answer, ..body };
            let mut slices = Vec::new();
            while let Some(frame) = body.frame().await {
                slices.push(frame.unwrap());
                assert!(budget.used() <= reserved, "{} of {reserved}", budget.used());
            }
            drop((body, slices));
            assert_eq!(budget.used(), 0);
        }
        let mut call = Admitted::of(&tonic::Request::new(()));
        call.answer = ByteBudget::new(1000).of_call(&Caller::default(), Purpose::WriteAnswer);
        reserve_answer(&call, 500).await.unwrap_err();
    }

    #[tokio::test]
    async fn at_the_limit_a_read_is_refused_and_the_answer_to_a_write_is_not() {
        let (budget, piece) = (ByteBudget::new(0), vec![7; 20_000]);
        let refused = response_body(&piece, &budget, false).collect().await.unwrap();
        assert_eq!(refused.trailers().unwrap()["grpc-status"], "8");
        assert!(refused.to_bytes().is_empty());
        let answered = response_body(&piece, &budget, true).collect().await.unwrap();
        assert_eq!(answered.to_bytes(), piece);
    }
}
