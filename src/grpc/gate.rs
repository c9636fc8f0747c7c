//! What every call passes before its body is read: the bound on concurrent calls, and the caller's clock.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::{Request, Response, Status, metadata::MetadataMap, service::Interceptor};

use super::{peer::Peer, status};
use crate::store::{Limit, StoreError};

/// Lets calls in, of all services on the port.
#[derive(Debug, Clone)]
pub struct Gate {
    places: Arc<Semaphore>,
    calls_max: usize,
}

/// A call that was let in. Its place is taken until the last copy is dropped.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// When the caller's time is over.
    pub deadline: Option<Instant>,
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Gate {
    pub fn new(calls_max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(calls_max)), calls_max }
    }
}

/// A health check. Whoever asks decides about the service's life, and asks most when it is busiest: it needs
/// no place.
#[derive(Debug, Clone, Copy)]
struct HealthCheck;

/// Comes before the gate, which sees neither path nor peer. A call that is refused is a call, too.
pub fn note_arrival<B>(mut request: http::Request<B>) -> http::Request<B> {
    if let Some(peer) = request.extensions().get::<Peer>() {
        peer.note_call();
    }
    if request.uri().path() == "/grpc.health.v1.Health/Check" {
        request.extensions_mut().insert(HealthCheck);
    }
    request
}

impl Interceptor for Gate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let place = match request.extensions().get::<HealthCheck>() {
            Some(HealthCheck) => None,
            None => Some(Arc::new(permit(&self.places, Limit::ConcurrentCalls, self.calls_max)?)),
        };
        let deadline = timeout(request.metadata()).map(|timeout| Instant::now() + timeout);
        request.extensions_mut().insert(Admitted { deadline, _place: place });
        Ok(request)
    }
}

impl Admitted {
    pub fn of<T>(request: &Request<T>) -> Self {
        let unbounded = Self { deadline: None, _place: None };
        request.extensions().get::<Self>().cloned().unwrap_or(unbounded)
    }

    /// Does a single call within the caller's deadline.
    ///
    /// # Errors
    /// Those of the work, and the deadline's.
    pub async fn within<T>(
        self,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let done = match self.deadline {
            None => work.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, work).await {
                Ok(done) => done,
                Err(_) => Err(status::deadline_exceeded()),
            },
        };
        done.map(Response::new)
    }
}

pub fn permit(places: &Arc<Semaphore>, limit: Limit, max: usize) -> Result<OwnedSemaphorePermit, Status> {
    const RETRY_AFTER: Duration = Duration::from_secs(1);
    places
        .clone()
        .try_acquire_owned()
        .map_err(|_| status::of_error(StoreError::Full { limit, max: max as u64, retry_after: RETRY_AFTER }))
}

/// What is left of the caller's time. tonic enforces the same deadline, but answers CANCELLED: ours has to
/// come first.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    const AHEAD_MAX: Duration = Duration::from_millis(50);
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The protocol allows eight digits; more would not fit into the clock.
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(count.saturating_mul(3600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout.saturating_sub(AHEAD_MAX.min(timeout / 10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_timeout(text: &'static str) -> Option<Duration> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        timeout(&metadata)
    }

    #[test]
    fn a_deadline_is_the_callers_in_every_unit_and_a_little_less() {
        let less = |timeout: Duration, ahead: u64| Some(timeout - Duration::from_millis(ahead));
        assert_eq!(with_timeout("2H"), less(Duration::from_secs(7200), 50));
        assert_eq!(with_timeout("3M"), less(Duration::from_secs(180), 50));
        assert_eq!(with_timeout("4S"), less(Duration::from_secs(4), 50));
        assert_eq!(with_timeout("100m"), less(Duration::from_millis(100), 10));
        assert_eq!(with_timeout("99999999u"), less(Duration::from_micros(99_999_999), 50));
        assert_eq!(with_timeout("1n"), Some(Duration::from_nanos(1)));
    }

    #[test]
    fn no_deadline_and_a_senseless_one_are_none() {
        assert_eq!(timeout(&MetadataMap::new()), None);
        for text in ["", "S", "5", "5x", "-5S", "5.0S", "99999999999999999H"] {
            assert_eq!(with_timeout(text), None, "{text}");
        }
    }

    #[test]
    fn a_place_is_taken_until_the_call_is_over() {
        let mut gate = Gate::new(1);
        let first = gate.call(Request::new(())).unwrap();
        let admitted = Admitted::of(&first);
        drop(first);
        assert_eq!(gate.call(Request::new(())).unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop(admitted);
        gate.call(Request::new(())).unwrap();
    }
}
