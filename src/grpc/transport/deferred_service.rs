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
pub struct DeferredService<S>(Arc<RwLock<ServiceState<S>>>);

#[derive(Debug, Clone)]
enum ServiceState<S> {
    There(S),
    Starting,
    /// There will be no service. The text says why.
    Absent(&'static str),
}

impl<S> DeferredService<S> {
    /// Lets `service` answer all calls from now on.
    pub fn set_ready(&self, service: S) {
        self.set(ServiceState::There(service));
    }

    /// Answers calls with the reason why there is no service.
    pub fn set_unavailable(&self, why: &'static str) {
        self.set(ServiceState::Absent(why));
    }

    /// Answers calls with the status of a start until another service arrives.
    pub fn set_starting(&self) {
        self.set(ServiceState::Starting);
    }

    fn set(&self, service: ServiceState<S>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = service;
    }
}

impl<S> Default for DeferredService<S> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(ServiceState::Starting)))
    }
}

impl<S> Clone for DeferredService<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: NamedService> NamedService for DeferredService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for DeferredService<S>
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
            ServiceState::There(mut service) => Either::Left(service.call(request)),
            ServiceState::Starting => {
                let starting = status::of_error(StoreError::Unavailable(Unavailable::Starting));
                Either::Right(ready(Ok(starting.into_http())))
            }
            ServiceState::Absent(why) => Either::Right(ready(Ok(status::absent(why).into_http()))),
        }
    }
}
