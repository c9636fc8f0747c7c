//! Limits how long a request may take to arrive, and how many bytes unfinished requests and unread
//! responses may hold. A call counts as in progress until its response has been read.
//!
//! How the bytes of one request are counted is in `request_body`, and those of one response in
//! `response_body`.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    authentication::Revocable,
    byte_budget::{ByteBudget, Purpose},
    compression::{Decompressor, ENCODING, Encoding},
    concurrency::{Admitted, answer_purpose},
    content_type::{RequestFormat, not_accepted, not_grpc, request_format},
    peer::Peer,
    request_body::{ArrivalTimer, RequestBody},
    response_body::ResponseBody,
};
use crate::grpc::{methods, status};

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
        Bounded { inner, limits: self.clone() }
    }
}

/// A service whose requests and responses are limited.
#[derive(Debug, Clone)]
pub struct Bounded<S> {
    inner: S,
    limits: BodyLimits,
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
        let path = request.uri().path();
        let (health, reflection) = (methods::is_health(path), methods::is_reflection(path));
        let purpose = answer_purpose(request.extensions());
        let settled = purpose == Purpose::WriteAnswer || health;
        let open_call = peer.begin_call();
        let admitted = request.extensions().get::<Admitted>().cloned();
        let bytes = match &admitted {
            Some(admitted) => admitted.answer.clone(),
            None => self.limits.budget.of_call(peer.client().caller(), purpose),
        };
        let caller = admitted.as_ref().map(|admitted| &admitted.principal);
        let revocable = caller.filter(|caller| reflection && caller.is_known()).cloned();
        let deadline = admitted.as_ref().and_then(|admitted| admitted.deadline);
        let kept = match &admitted {
            Some(admitted) => admitted.request.clone(),
            None => self.limits.budget.of_call(peer.client().caller(), Purpose::Request),
        };
        let arrival = ArrivalTimer::new(self.limits.request_max, deadline);
        let unpacking = encoding.map(|encoding| Decompressor::new(encoding, self.limits.message_bytes_max));
        let request = request.map(|body| Body::new(RequestBody::new(body, kept, health, arrival, unpacking)));
        let answered = self.inner.call(request);
        Box::pin(async move {
            let answered = answered.await?;
            if let Some(admitted) = &admitted {
                admitted.principal.note_status(answered.extensions().get::<Status>());
            }
            let answer = open_call.answer(purpose);
            Ok(answered.map(|body| {
                let body = match revocable {
                    Some(caller) => Body::new(Revocable::new(body, caller)),
                    None => body,
                };
                Body::new(ResponseBody::new(body, answer, bytes, settled, admitted))
            }))
        })
    }
}
