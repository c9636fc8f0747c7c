//! Ends calls that would delay a stop.
//!
//! These are requests that are still being received, whose work has not begun, and streams of
//! server reflection, which last as long as their clients like. Calls that are already being
//! processed continue.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::grpc::status;

/// The layer. It directly wraps the services.
#[derive(Debug, Clone)]
pub struct ClosingLayer(Arc<CancellationToken>);

impl ClosingLayer {
    /// Creates the layer, which takes effect once `closing` is cancelled.
    pub fn new(closing: CancellationToken) -> Self {
        Self(Arc::new(closing))
    }
}

impl<S> Layer<S> for ClosingLayer {
    type Service = ClosingService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClosingService { inner, closing: self.0.clone() }
    }
}

/// A service whose endless calls end when the event store stops.
#[derive(Debug, Clone)]
pub struct ClosingService<S> {
    inner: S,
    /// Shared, because cloning a token takes its lock, and this one is cloned for every call.
    closing: Arc<CancellationToken>,
}

impl<S> Service<Request<Body>> for ClosingService<S>
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
        let endless = request.uri().path().starts_with("/grpc.reflection.");
        let closing = self.closing.clone();
        let answered = self.inner.call(request.map(|body| Body::new(Arriving::new(body, closing.clone()))));
        if !endless {
            return Box::pin(answered);
        }
        Box::pin(async move { Ok(answered.await?.map(|body| Body::new(Answering::new(body, closing)))) })
    }
}

/// The wait for the stop. Created only if something has to wait.
#[derive(Debug)]
struct Closed {
    closing: Arc<CancellationToken>,
    wait: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Closed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = &self.closing;
        self.wait
            .get_or_insert_with(|| Box::pin(CancellationToken::clone(closing).cancelled_owned()))
            .as_mut()
            .poll(cx)
    }
}

/// A request that is being received. Data that has already arrived is accepted even if the service
/// is stopping.
#[derive(Debug)]
struct Arriving {
    body: Body,
    closed: Closed,
}

impl Arriving {
    fn new(body: Body, closing: Arc<CancellationToken>) -> Self {
        Self { body, closed: Closed { closing, wait: None } }
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => self.closed.poll(cx).map(|()| Some(Err(status::shutting_down()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response that goes on for as long as its client likes.
#[derive(Debug)]
struct Answering {
    body: Body,
    closed: Closed,
    over: bool,
}

impl Answering {
    fn new(body: Body, closing: Arc<CancellationToken>) -> Self {
        Self { body, closed: Closed { closing, wait: None }, over: false }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.closed.poll(cx).is_ready() {
            self.over = true;
            let mut trailers = http::HeaderMap::new();
            let ended = status::shutting_down().add_header(&mut trailers);
            return Poll::Ready(Some(ended.map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
