//! A service that is reachable before it is ready, and while it restarts.
//!
//! Until the service arrives, its calls are answered with the status that it is starting, or with
//! the reason why there is none.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::{body::Body, server::NamedService};
use tower::Service;

use crate::{
    error::{StoreError, Unavailable},
    grpc::status,
};

/// A service that may arrive later. See the module. Clones share the same service.
#[derive(Debug)]
pub struct Late<S>(Arc<RwLock<Instead<S>>>);

#[derive(Debug, Clone)]
enum Instead<S> {
    There(S),
    Starting,
    /// There will be no service. The text says why.
    Absent(&'static str),
}

impl<S> Late<S> {
    /// Lets `service` answer all calls from now on.
    pub fn arrive(&self, service: S) {
        self.set(Instead::There(service));
    }

    /// Answers calls with the reason why there is no service.
    pub fn be_absent(&self, why: &'static str) {
        self.set(Instead::Absent(why));
    }

    /// Answers calls with the status of a start until another service arrives.
    pub fn leave(&self) {
        self.set(Instead::Starting);
    }

    fn set(&self, service: Instead<S>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = service;
    }
}

impl<S> Default for Late<S> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Instead::Starting)))
    }
}

impl<S> Clone for Late<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: NamedService> NamedService for Late<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Late<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    /// Always ready, as all generated services are once they have arrived.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        match service {
            Instead::There(mut service) => Either::Left(service.call(request)),
            Instead::Starting => {
                let starting = status::of_error(StoreError::Unavailable(Unavailable::Starting));
                Either::Right(ready(Ok(starting.into_http())))
            }
            Instead::Absent(why) => Either::Right(ready(Ok(status::absent(why).into_http()))),
        }
    }
}
