//! The bounds on what travels: how long a request may take to arrive, how many bytes of unfinished
//! requests and unread answers there may be, and that a call keeps its place until its answer was read.
//!
//! tonic collects a whole message before it calls the service, so without this layer many callers who each
//! send most of a large one would hold memory that nobody counts, for as long as they like.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    byte_budget::{ByteBudget, CallBytes, Purpose},
    compression::{ENCODING, Encoding, Step, Unpacking},
    content::{Content, content_of, not_accepted, not_grpc},
    gate::{Admitted, answer_purpose},
    peer::{Answer, Peer},
    status,
    write_answer::SLICE_BYTES,
};

/// What a piece takes up on its way out beside itself: its last slice is copied. A piece of one slice is not.
fn last_slice(piece_bytes: usize) -> usize {
    match piece_bytes {
        0..=SLICE_BYTES => 0,
        longer => (longer - 1) % SLICE_BYTES + 1,
    }
}

/// Whoever asks decides about the service's life, and asks most when it is busiest.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// So much of a health check is never refused. It has the name of a service.
const HEALTH_BYTES_MAX: usize = 4096;

/// Bounds requests and answers, of all services on the port.
#[derive(Debug, Clone)]
pub struct Bodies {
    budget: ByteBudget,
    request_max: Duration,
    /// A message may unpack to so many.
    message_bytes_max: usize,
}

impl Bodies {
    pub fn new(budget: ByteBudget, request_max: Duration, message_bytes_max: usize) -> Self {
        Self { budget, request_max, message_bytes_max }
    }
}

impl<S> Layer<S> for Bodies {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Bounded { inner, bodies: self.clone() }
    }
}

/// A service whose requests and answers are bounded.
#[derive(Debug, Clone)]
pub struct Bounded<S> {
    inner: S,
    bodies: Bodies,
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let refused = |answer| -> Self::Future { Box::pin(std::future::ready(Ok(answer))) };
        match content_of(&request) {
            Content::Protobuf => {}
            Content::OtherGrpc => return refused(status::other_content().into_http()),
            Content::NotGrpc => return refused(not_grpc()),
        }
        let encoding = match Encoding::of(request.headers()) {
            Ok(encoding) => encoding,
            Err(unknown) => return refused(not_accepted(&unknown)),
        };
        request.headers_mut().remove(ENCODING);
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let health = request.uri().path().starts_with(HEALTH);
        let purpose = answer_purpose(request.extensions());
        let settled = purpose == Purpose::WriteAnswer || health;
        let open_call = peer.begin_call();
        let admitted = request.extensions().get::<Admitted>().cloned();
        let bytes = match &admitted {
            Some(admitted) => admitted.answer.clone(),
            None => self.bodies.budget.of_call(peer.caller(), purpose),
        };
        let deadline = admitted.as_ref().and_then(|admitted| admitted.deadline);
        let kept = match &admitted {
            Some(admitted) => admitted.request.clone(),
            None => self.bodies.budget.of_call(peer.caller(), Purpose::Request),
        };
        let incoming = |body| Incoming::new(body, &self.bodies, kept, deadline, encoding, health);
        let request = request.map(|body| Body::new(incoming(body)));
        let answered = self.inner.call(request);
        Box::pin(async move {
            let outgoing = |body| Outgoing {
                body,
                rest: Bytes::new(),
                sliced: false,
                answer: Arc::new(open_call.answer(purpose)),
                bytes,
                settled,
                over: false,
                _admitted: admitted,
            };
            Ok(answered.await?.map(|body| Body::new(outgoing(body))))
        })
    }
}

/// A request on its way in.
struct Incoming {
    body: Body,
    received: usize,
    bytes: CallBytes,
    /// A health check, which is never refused for its bytes while it is small.
    forced: bool,
    until: Instant,
    /// The caller's own deadline comes before `server.request_max`.
    deadline_first: bool,
    /// Made only for a request that has to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
    unpacking: Option<Unpacking>,
}

impl Incoming {
    fn new(
        body: Body,
        bodies: &Bodies,
        bytes: CallBytes,
        deadline: Option<Instant>,
        encoding: Option<Encoding>,
        forced: bool,
    ) -> Self {
        let until = Instant::now() + bodies.request_max;
        Self {
            body,
            received: 0,
            bytes,
            forced,
            until: deadline.map_or(until, |deadline| deadline.min(until)),
            deadline_first: deadline.is_some_and(|deadline| deadline < until),
            alarm: None,
            unpacking: encoding.map(|encoding| Unpacking::new(encoding, bodies.message_bytes_max)),
        }
    }

    fn count(&self) -> Result<(), Status> {
        match self.forced && self.received <= HEALTH_BYTES_MAX {
            true => self.bytes.force(self.received),
            false => self.bytes.resize(self.received)?,
        }
        Ok(())
    }

    fn too_late(&self) -> Status {
        if self.deadline_first { status::deadline_exceeded() } else { status::request_too_slow() }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until))).as_mut().poll(cx)
    }

    /// The next frame as it came in.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_over(cx).map(|()| Some(Err(self.too_late())));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.received = self.received.saturating_add(data.len());
            // Of what is unpacked it is known then how much it is.
            if self.unpacking.is_none() {
                self.count()?;
            }
        }
        Poll::Ready(frame)
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            let Some(unpacking) = &mut this.unpacking else { return this.poll_received(cx) };
            match unpacking.step(this.received, &this.bytes)? {
                Step::Message(message) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Step::GoOn => {
                    // Others on this thread have their turn first.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Wait => {}
            }
            match ready!(this.poll_received(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => {
                    let Some(unpacking) = &mut this.unpacking else { continue };
                    unpacking.receive(&data);
                    this.count()?;
                }
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => {
                    let rest =
                        this.unpacking.take().map(|mut unpacking| unpacking.rest()).unwrap_or_default();
                    let rest = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
                    return Poll::Ready(rest);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.unpacking.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.unpacking.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// An answer on its way out. The call has its place until the last of it was taken, and each piece counts until its
/// memory is free: an answer that is not read is memory, too.
///
/// It is handed out in slices. What is below takes a whole piece as soon as its caller has room for a byte, and
/// may then keep it for ever without a word to us.
struct Outgoing {
    body: Body,
    /// Of the piece that is being handed out.
    rest: Bytes,
    /// Some of the piece was handed out before.
    sliced: bool,
    answer: Arc<Answer>,
    /// What was read for the next piece, and then that itself.
    bytes: CallBytes,
    /// What was asked for is done, and its bytes are reserved, or few: it must not be withheld.
    settled: bool,
    over: bool,
    _admitted: Option<Admitted>,
}

impl Outgoing {
    /// The call goes on until the slice is written, which may be long after this is over.
    fn slice(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Slice { bytes, answer: self.answer.clone() })
    }
}

struct Slice {
    bytes: Bytes,
    answer: Arc<Answer>,
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

impl http_body::Body for Outgoing {
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
            // A piece has to be taken whole in time, however many slices it has.
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
            // The last slice may lie unread for ever, and the next piece be asked for all the same: it must not keep the
            // memory of all.
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
    use crate::{grpc::write_answer::reserve_answer, shared_limit::Caller};

    fn body(bytes: &[u8]) -> Body {
        Body::new(Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {}))
    }

    fn outgoing(piece: &[u8], budget: &ByteBudget, settled: bool) -> Outgoing {
        Outgoing {
            body: body(piece),
            rest: Bytes::new(),
            sliced: false,
            answer: Arc::new(Peer::default().begin_call().answer(Purpose::Answer)),
            bytes: budget.of_call(&Caller::default(), Purpose::Answer),
            settled,
            over: false,
            _admitted: None,
        }
    }

    #[tokio::test]
    async fn a_piece_counts_until_its_last_slice_is_dropped() {
        let (budget, piece) = (ByteBudget::new(1 << 20), vec![7; 40_000]);
        let mut body = outgoing(&piece, &budget, false);
        let mut slices = Vec::new();
        while let Some(frame) = body.frame().await {
            slices.push(frame.unwrap().into_data().unwrap());
            assert!(budget.used() >= piece.len() as u64);
        }
        let lengths: Vec<usize> = slices.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [SLICE_BYTES, SLICE_BYTES, 40_000 - 2 * SLICE_BYTES]);
        drop(body);
        assert_eq!(slices.concat(), piece);
        // What is below keeps slices when the call is over.
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
            let mut body = Outgoing { bytes: call.answer, ..outgoing(&vec![7; bytes], &budget, true) };
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
        let refused = outgoing(&piece, &budget, false).collect().await.unwrap();
        assert_eq!(refused.trailers().unwrap()["grpc-status"], "8");
        assert!(refused.to_bytes().is_empty());
        let answered = outgoing(&piece, &budget, true).collect().await.unwrap();
        assert_eq!(answered.to_bytes(), piece);
    }

    #[tokio::test]
    async fn every_byte_of_a_request_counts_while_it_arrives() {
        let bodies = Bodies::new(ByteBudget::new(1 << 20), Duration::from_secs(60), 1 << 20);
        let held = bodies.budget.of_call(&Caller::default(), Purpose::Request);
        let mut incoming = Incoming::new(body(&[7; 10_000]), &bodies, held.clone(), None, None, false);
        incoming.frame().await.unwrap().unwrap();
        assert_eq!(bodies.budget.used(), 10_000);
        drop(incoming);
        // What was decoded from it is still there.
        assert_eq!(bodies.budget.used(), 10_000);
        drop(held);
        assert_eq!(bodies.budget.used(), 0);
    }

    #[tokio::test]
    async fn a_health_check_is_not_refused_for_its_bytes_while_it_is_small() {
        let bodies = Bodies::new(ByteBudget::new(0), Duration::from_secs(60), 1 << 20);
        let received = async |size: usize, health| {
            let held = bodies.budget.of_call(&Caller::default(), Purpose::Request);
            let mut incoming = Incoming::new(body(&vec![7; size]), &bodies, held, None, None, health);
            incoming.frame().await.unwrap().is_ok()
        };
        assert!(received(30, true).await);
        assert!(!received(30, false).await);
        assert!(!received(HEALTH_BYTES_MAX + 1, true).await);
    }

    #[test]
    fn only_protobuf_is_read_as_protobuf() {
        let of = |content: &str| {
            let request = Request::builder().method("POST").header("content-type", content);
            content_of(&request.body(()).unwrap())
        };
        for content in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert_eq!(of(content), Content::Protobuf, "{content}");
        }
        for content in ["application/grpc+json", "application/grpc+thrift;x=y", "application/grpc+protobuf"] {
            assert_eq!(of(content), Content::OtherGrpc, "{content}");
        }
        for content in ["", "application/json", "application/grpcs", "application/grpc-web", "text/plain"] {
            assert_eq!(of(content), Content::NotGrpc, "{content}");
        }
    }
}
