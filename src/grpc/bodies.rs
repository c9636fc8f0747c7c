//! The bounds on what travels: how long a request may take to arrive, how many bytes of unfinished
//! requests there may be, and that a call keeps its place until its answer was read.
//!
//! tonic collects a whole message before it calls the service, so without this layer many callers who each
//! send most of a large one would hold memory that nobody counts, for as long as they like.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
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
use crate::store::{Limit, StoreError};

/// What every request may bring without a share of the bytes that all have together: callers with small
/// requests are not kept out by those with large ones.
const OWN_BYTES: usize = 16 * 1024;

/// Bounds requests and answers, of all services on the port.
#[derive(Debug, Clone)]
pub struct Bodies {
    receiving: Arc<Receiving>,
    request_max: Duration,
}

/// The bytes of requests that are not complete yet, beyond the first ones of each.
#[derive(Debug)]
struct Receiving {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Bodies {
    pub fn new(receiving_bytes_max: usize, request_max: Duration) -> Self {
        let receiving = Receiving { bytes: AtomicUsize::new(0), bytes_max: receiving_bytes_max };
        Self { receiving: Arc::new(receiving), request_max }
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
        peer.note_call();
        if !is_grpc(&request) {
            return Box::pin(std::future::ready(Ok(not_grpc())));
        }
        let admitted = request.extensions().get::<Admitted>().cloned();
        let request = request.map(|body| Body::new(Incoming::new(body, &self.bodies)));
        let answered = self.inner.call(request);
        Box::pin(async move {
            let answer = answered.await?;
            Ok(answer.map(|body| Body::new(Outgoing { body, answer: peer.answer(), _admitted: admitted })))
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
    receiving: Arc<Receiving>,
    bytes: usize,
    /// What it holds of the bytes that all have together.
    shared: usize,
    until: Instant,
    /// Made only for a request that has to be waited for.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    fn new(body: Body, bodies: &Bodies) -> Self {
        let (receiving, until) = (bodies.receiving.clone(), Instant::now() + bodies.request_max);
        Self { body, receiving, bytes: 0, shared: 0, until, alarm: None }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Status> {
        const RETRY_AFTER: Duration = Duration::from_secs(1);
        self.bytes += bytes;
        let more = self.bytes.saturating_sub(OWN_BYTES) - self.shared;
        let max = self.receiving.bytes_max;
        let fits = |held: usize| held.checked_add(more).filter(|sum| *sum <= max);
        if self.receiving.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            let (limit, max) = (Limit::ReceivingBytes, max as u64);
            return Err(status::of_error(StoreError::Full { limit, max, retry_after: RETRY_AFTER }));
        }
        self.shared += more;
        Ok(())
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

impl Drop for Incoming {
    fn drop(&mut self) {
        self.receiving.bytes.fetch_sub(self.shared, Ordering::Relaxed);
    }
}

/// An answer on its way out. The call has its place until the last of it was taken: an answer that is not
/// read is memory, too.
struct Outgoing {
    body: Body,
    answer: Answer,
    _admitted: Option<Admitted>,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.answer.asked_for();
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(Some(_))) {
            self.answer.handed_out();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
