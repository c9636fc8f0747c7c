//! Ends a response that lasts as long as its client likes when its caller loses its identity.
//!
//! The streams of the project's own services end themselves. Those of server reflection do not.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::CallPrincipal;

/// A response that ends with its caller's identity.
pub(in crate::grpc::transport) struct Revocable {
    body: Body,
    revocation: Pin<Box<dyn Future<Output = Status> + Send>>,
    over: bool,
}

impl Revocable {
    pub(in crate::grpc::transport) fn new(body: Body, caller: CallPrincipal) -> Self {
        let revocation = Box::pin(async move { caller.revocation().await });
        Self { body, revocation, over: false }
    }
}

impl http_body::Body for Revocable {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(status) = self.revocation.as_mut().poll(cx) {
            self.over = true;
            let mut trailers = http::HeaderMap::new();
            let ended = status.add_header(&mut trailers);
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
