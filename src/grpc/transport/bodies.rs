//! Limits how long a request may take to arrive, and how many bytes unfinished requests and unread
//! responses may hold. A call counts as in progress until its response has been read.
//!
//! tonic collects a whole message before it calls the service. Without this layer, many clients
//! that each send most of a large message could hold uncounted memory for as long as they like.

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
    compression::{DecompressStep, Decompressor, ENCODING, Encoding},
    concurrency::{Admitted, answer_purpose},
    content_type::{RequestFormat, not_accepted, not_grpc, request_format},
    peer::{Peer, ResponseTracker},
    write_answer::SLICE_BYTES,
};
use crate::grpc::{methods, status};

/// Returns the bytes that a piece needs while it is sent, in addition to its own: its last slice is
/// copied. A piece of one slice is not copied.
fn last_slice(piece_bytes: usize) -> usize {
    match piece_bytes {
        0..=SLICE_BYTES => 0,
        longer => (longer - 1) % SLICE_BYTES + 1,
    }
}

/// A health check of up to this size is never rejected. It contains the name of a service.
const HEALTH_BYTES_MAX: usize = 4096;

/// Limits the requests and responses of all services on the port.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    budget: ByteBudget,
    request_max: Duration,
    /// The maximum size of a decompressed message.
    message_bytes_max: usize,
}

impl BodyLimits {
    /// Creates the layer. `request_max` is how long a request may take to arrive.
    pub fn new(budget: ByteBudget, request_max: Duration, message_bytes_max: usize) -> Self {
        Self { budget, request_max, message_bytes_max }
    }
}

impl<S> Layer<S> for BodyLimits {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Bounded { inner, bodies: self.clone() }
    }
}

/// A service whose requests and responses are limited.
#[derive(Debug, Clone)]
pub struct Bounded<S> {
    inner: S,
    bodies: BodyLimits,
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
        match request_format(&request) {
            RequestFormat::Protobuf => {}
            RequestFormat::OtherGrpc => return refused(status::other_content().into_http()),
            RequestFormat::NotGrpc => return refused(not_grpc()),
        }
        let encoding = match Encoding::of(request.headers()) {
            Ok(encoding) => encoding,
            Err(unknown) => return refused(not_accepted(&unknown)),
        };
        request.headers_mut().remove(ENCODING);
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let health = methods::is_health(request.uri().path());
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
        let incoming = |body| Incoming {
            body,
            received: 0,
            bytes: kept,
            forced: health,
            arrival: ArrivalTimer::new(self.bodies.request_max, deadline),
            unpacking: encoding.map(|encoding| Decompressor::new(encoding, self.bodies.message_bytes_max)),
        };
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

/// A request that is being received.
struct Incoming {
    body: Body,
    received: usize,
    bytes: CallBytes,
    /// A health check, which is never rejected because of its bytes while it is small.
    forced: bool,
    arrival: ArrivalTimer,
    unpacking: Option<Decompressor>,
}

impl Incoming {
    fn count(&self) -> Result<(), Status> {
        if self.forced && self.received <= HEALTH_BYTES_MAX {
            self.bytes.force(self.received)
        } else {
            self.bytes.resize(self.received)?
        }
        Ok(())
    }

    /// Returns the next frame as received.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.arrival.poll_over(cx).map(|()| Some(Err(self.arrival.too_late())));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.received = self.received.saturating_add(data.len());
            // A compressed request is counted when it is decompressed, because only then is its
            // size known.
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
                DecompressStep::Message(message) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                DecompressStep::GoOn => {
                    // Let other tasks on this thread run first.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                DecompressStep::Wait => {}
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

/// How long a request may take to arrive.
struct ArrivalTimer {
    until: Instant,
    /// Whether the client's deadline comes before the end of `server.request_max`.
    deadline_first: bool,
    /// Created only if the request has to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl ArrivalTimer {
    fn new(request_max: Duration, deadline: Option<Instant>) -> Self {
        let until = Instant::now() + request_max;
        Self {
            until: deadline.map_or(until, |deadline| deadline.min(until)),
            deadline_first: deadline.is_some_and(|deadline| deadline < until),
            alarm: None,
        }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until))).as_mut().poll(cx)
    }

    fn too_late(&self) -> Status {
        if self.deadline_first { status::deadline_exceeded() } else { status::request_too_slow() }
    }
}

/// A response that is being sent. The call counts as in progress until all of the response has been
/// taken, and each piece counts until its memory is freed: an unread response is memory, too.
///
/// The response is sent in slices. The layer below takes a whole piece as soon as its client has
/// room for one byte, and may then keep it forever without any notice.
struct Outgoing {
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

impl Outgoing {
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
    use crate::{grpc::transport::write_answer::reserve_answer, shared_limit::Caller};

    fn body(bytes: &[u8]) -> Body {
        Body::new(Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {}))
    }

    fn incoming(bytes: &[u8], bodies: &BodyLimits, held: CallBytes, forced: bool) -> Incoming {
        Incoming {
            body: body(bytes),
            received: 0,
            bytes: held,
            forced,
            arrival: ArrivalTimer::new(bodies.request_max, None),
            unpacking: None,
        }
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
        let bodies = BodyLimits::new(ByteBudget::new(1 << 20), Duration::from_secs(60), 1 << 20);
        let held = bodies.budget.of_call(&Caller::default(), Purpose::Request);
        let mut incoming = incoming(&[7; 10_000], &bodies, held.clone(), false);
        incoming.frame().await.unwrap().unwrap();
        assert_eq!(bodies.budget.used(), 10_000);
        drop(incoming);
        // The values decoded from the request are still in memory.
        assert_eq!(bodies.budget.used(), 10_000);
        drop(held);
        assert_eq!(bodies.budget.used(), 0);
    }

    #[tokio::test]
    async fn a_health_check_is_not_refused_for_its_bytes_while_it_is_small() {
        let bodies = BodyLimits::new(ByteBudget::new(0), Duration::from_secs(60), 1 << 20);
        let received = async |size: usize, health| {
            let held = bodies.budget.of_call(&Caller::default(), Purpose::Request);
            let mut incoming = incoming(&vec![7; size], &bodies, held, health);
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
            request_format(&request.body(()).unwrap())
        };
        for content in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert_eq!(of(content), RequestFormat::Protobuf, "{content}");
        }
        for content in ["application/grpc+json", "application/grpc+thrift;x=y", "application/grpc+protobuf"] {
            assert_eq!(of(content), RequestFormat::OtherGrpc, "{content}");
        }
        for content in ["", "application/json", "application/grpcs", "application/grpc-web", "text/plain"] {
            assert_eq!(of(content), RequestFormat::NotGrpc, "{content}");
        }
    }
}
