//! The bounds on what travels: how long a request may take to arrive, how many bytes of unfinished
//! requests and unread answers there may be, and that a call keeps its place until its answer was read.
//!
//! tonic collects a whole message before it calls the service, so without this layer many callers who each
//! send most of a large one would hold memory that nobody counts, for as long as they like.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    gate::Admitted,
    peer::{Answer, Peer},
    status,
};
use crate::{
    config::LimitsConfig,
    store::{Limit, StoreError},
};

/// What every request may bring without a share of the bytes that all have together: callers with small
/// requests are not kept out by those with large ones.
const OWN_BYTES: usize = 16 * 1024;

/// No more than a frame of HTTP/2.
const SLICE_BYTES: usize = 16 * 1024;

/// Calls that have stored something when they are answered.
const WRITES: [&str; 3] = [
    "/aethyr.eventstore.v1.EventStoreService/AppendEvents",
    "/aethyr.eventstore.v1.EventStoreService/SaveSnapshot",
    "/aethyr.world.v1.CommandService/ExecuteCommands",
];

/// Bounds requests and answers, of all services on the port.
#[derive(Debug, Clone)]
pub struct Bodies {
    receiving: Arc<Shared>,
    unread: Arc<Shared>,
    request_max: Duration,
}

/// Bytes that all calls have together, beyond the first ones of each.
#[derive(Debug)]
struct Shared {
    bytes: AtomicUsize,
    bytes_max: usize,
    limit: Limit,
}

/// What one call holds of them.
#[derive(Debug)]
struct Share {
    of: Arc<Shared>,
    bytes: usize,
}

impl Bodies {
    pub fn new(limits: &LimitsConfig, request_max: Duration) -> Self {
        let shared = |bytes_max, limit| Arc::new(Shared { bytes: AtomicUsize::new(0), bytes_max, limit });
        Self {
            receiving: shared(limits.receiving_bytes_max, Limit::ReceivingBytes),
            unread: shared(limits.unread_bytes_max, Limit::UnreadBytes),
            request_max,
        }
    }
}

impl Share {
    fn of(shared: &Arc<Shared>) -> Self {
        Self { of: shared.clone(), bytes: 0 }
    }

    /// Makes it the share of a call that has `bytes` bytes altogether.
    fn resize(&mut self, bytes: usize) -> Result<(), Status> {
        const RETRY_AFTER: Duration = Duration::from_secs(1);
        let wanted = bytes.saturating_sub(OWN_BYTES);
        if wanted <= self.bytes {
            self.of.bytes.fetch_sub(self.bytes - wanted, Ordering::Relaxed);
        } else {
            let (more, max) = (wanted - self.bytes, self.of.bytes_max);
            let fits = |held: usize| held.checked_add(more).filter(|sum| *sum <= max);
            if self.of.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
                let (limit, max) = (self.of.limit, max as u64);
                return Err(status::of_error(StoreError::Full { limit, max, retry_after: RETRY_AFTER }));
            }
        }
        self.bytes = wanted;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        if !is_grpc(&request) {
            return Box::pin(std::future::ready(Ok(not_grpc())));
        }
        let admitted = request.extensions().get::<Admitted>().cloned();
        let settled = WRITES.contains(&request.uri().path());
        let request = request.map(|body| Body::new(Incoming::new(body, &self.bodies)));
        let (answered, unread) = (self.inner.call(request), Share::of(&self.bodies.unread));
        Box::pin(async move {
            let outgoing = |body| Outgoing {
                body,
                rest: Bytes::new(),
                answer: peer.answer(),
                unread,
                settled,
                over: false,
                _admitted: admitted,
            };
            Ok(answered.await?.map(|body| Body::new(outgoing(body))))
        })
    }
}

/// What the protocol demands of a request before it is one.
fn is_grpc(request: &Request<Body>) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let content = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = content.and_then(|content| content.strip_prefix(TYPE));
    request.method() == Method::POST
        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn not_grpc() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

/// A request on its way in.
struct Incoming {
    body: Body,
    bytes: usize,
    share: Share,
    until: Instant,
    /// Made only for a request that has to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    fn new(body: Body, bodies: &Bodies) -> Self {
        let (share, until) = (Share::of(&bodies.receiving), Instant::now() + bodies.request_max);
        Self { body, bytes: 0, share, until, alarm: None }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Status> {
        self.bytes += bytes;
        self.share.resize(self.bytes)
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until))).as_mut().poll(cx)
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_over(cx).map(|()| Some(Err(status::request_too_slow())));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(full) = self.take(data.len())
        {
            return Poll::Ready(Some(Err(full)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer on its way out. The call has its place until the last of it was taken: an answer that is not
/// read is memory, too.
///
/// It is handed out in slices. What is below takes a whole piece as soon as its caller has room for a byte, and
/// may then keep it for ever without a word to us.
struct Outgoing {
    body: Body,
    /// Of the piece that is being handed out.
    rest: Bytes,
    answer: Answer,
    /// The present piece, until the next is asked for.
    unread: Share,
    /// What was asked for is done, and the answer small: it must not be withheld.
    settled: bool,
    over: bool,
    _admitted: Option<Admitted>,
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
        self.answer.asked_for();
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            self.answer.handed_out();
            let piece = match frame.into_data() {
                Ok(piece) => piece,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            let bytes = if self.settled { 0 } else { piece.len() };
            if let Err(full) = self.unread.resize(bytes) {
                self.over = true;
                let mut trailers = http::HeaderMap::new();
                return Poll::Ready(Some(full.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
            }
            self.rest = piece;
        }
        self.answer.handed_out();
        let slice = self.rest.len().min(SLICE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(slice)))))
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

    #[test]
    fn a_share_is_what_goes_beyond_a_calls_own_bytes_and_comes_back() {
        let limits = LimitsConfig { receiving_bytes_max: 100, ..LimitsConfig::default() };
        let shared = Bodies::new(&limits, Duration::ZERO).receiving;
        let (mut one, mut other) = (Share::of(&shared), Share::of(&shared));
        one.resize(OWN_BYTES + 60).unwrap();
        other.resize(OWN_BYTES).unwrap();
        let refused = other.resize(OWN_BYTES + 41).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("limits.receiving_bytes_max"), "{refused:?}");
        one.resize(OWN_BYTES + 59).unwrap();
        other.resize(OWN_BYTES + 41).unwrap();
        drop(one);
        other.resize(OWN_BYTES + 100).unwrap();
        drop(other);
        assert_eq!(shared.bytes.load(Ordering::Relaxed), 0);
    }

    fn outgoing(piece: &[u8], unread: &Arc<Shared>, settled: bool) -> Outgoing {
        Outgoing {
            body: Body::new(Full::new(Bytes::copy_from_slice(piece)).map_err(|never| match never {})),
            rest: Bytes::new(),
            answer: Peer::default().answer(),
            unread: Share::of(unread),
            settled,
            over: false,
            _admitted: None,
        }
    }

    fn unread(bytes_max: usize) -> Arc<Shared> {
        Arc::new(Shared { bytes: AtomicUsize::new(0), bytes_max, limit: Limit::UnreadBytes })
    }

    #[tokio::test]
    async fn a_piece_counts_until_its_last_slice_was_taken() {
        let (unread, piece) = (unread(1 << 20), vec![7; 40_000]);
        let mut body = outgoing(&piece, &unread, false);
        let mut slices = Vec::new();
        while let Some(frame) = body.frame().await {
            slices.push(frame.unwrap().into_data().unwrap().len());
            assert_eq!(unread.bytes.load(Ordering::Relaxed), piece.len() - OWN_BYTES);
        }
        assert_eq!(slices, [SLICE_BYTES, SLICE_BYTES, 40_000 - 2 * SLICE_BYTES]);
        drop(body);
        assert_eq!(unread.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn at_the_limit_a_read_is_refused_and_the_answer_to_a_write_is_not() {
        let (unread, piece) = (unread(0), vec![7; 20_000]);
        let refused = outgoing(&piece, &unread, false).collect().await.unwrap();
        assert_eq!(refused.trailers().unwrap()["grpc-status"], "8");
        assert!(refused.to_bytes().is_empty());
        let answered = outgoing(&piece, &unread, true).collect().await.unwrap();
        assert_eq!(answered.to_bytes(), piece);
    }
}
