//! Admits or rejects calls before their bodies are read.
//!
//! Checks who calls, the size of the metadata, the deadline, and the limit on concurrent calls. An
//! admitted call holds its share of the limits until its work has ended. How a caller is recognized
//! is left to `authentication`, and the bodies to the other layers.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::Either};
use http::{Extensions, HeaderMap};
use tokio::time::Instant;
use tonic::{Request, Response, Status, body::Body};
use tower::{Layer, Service};

use super::{
    addresses::AddressPlace,
    authentication::{Authentication, CallPrincipal, Identified, Refused},
    byte_budget::{ByteBudget, CallBytes, Purpose},
    client::{Client, ClientRegistry},
    peer::Peer,
};
use crate::{
    access::{AccessControl, Right},
    access_log::AccessLog,
    error::Limit,
    grpc::{methods, status},
    shared_limit::{LimitGuard, Resource, SharedLimit},
    store::Origin,
};

/// The maximum size of all header fields of a call. Each counts 32 bytes in addition to its name
/// and value, as in HTTP/2.
const METADATA_BYTES_MAX: usize = 16 * 1024;

/// Admits the calls of all services on the port.
#[derive(Debug, Clone)]
pub struct Gate {
    places: Arc<SharedLimit>,
    budget: ByteBudget,
    /// `None` while access control is off.
    authentication: Option<Arc<Authentication>>,
}

/// A call that was admitted. It counts against the limits until the last clone is dropped: work
/// that continues after the client is gone keeps a clone.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// When the client's deadline expires.
    pub deadline: Option<Instant>,
    /// The memory of the request, until its call ends or counts as a waiting write.
    pub request: CallBytes,
    /// The memory of the read in progress and of the response.
    pub answer: CallBytes,
    /// The peer of the connection that the call arrived on.
    pub peer: Peer,
    /// Who calls.
    pub principal: CallPrincipal,
    /// The client whose share of the limits the call uses.
    pub client: Client,
    _place: Option<Arc<LimitGuard>>,
    /// Counts among the calls of its address that need no credentials.
    _open: Option<Arc<AddressPlace>>,
    /// Counts against the limit on open streams.
    _stream: Option<Arc<LimitGuard>>,
}

impl Gate {
    /// Admits up to `calls_max` calls at a time, whose bytes count against `budget`.
    pub fn new(calls_max: usize, budget: ByteBudget) -> Self {
        let places = Arc::new(SharedLimit::new(Limit::ConcurrentCalls, Resource::Calls, calls_max as u64));
        Self { places, budget, authentication: None }
    }

    /// Asks callers who they are, unless access control is off. It cannot be switched on or off
    /// while the service runs.
    #[must_use]
    pub(crate) fn with_access(self, control: AccessControl, clients: ClientRegistry, log: AccessLog) -> Self {
        let is_on = !control.policy().is_off();
        let authentication = is_on.then(|| Arc::new(Authentication::new(control, clients, log)));
        Self { authentication, ..self }
    }

    fn admit<B>(&self, request: &http::Request<B>) -> Result<Admitted, Refused> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let caller = match &self.authentication {
            None => Identified::by_connection(&peer),
            Some(authentication) => authentication.authenticate(request, &peer)?,
        };
        // A connection without any call of a known caller is closed after a while.
        if self.authentication.is_none() || caller.principal.is_known() {
            peer.note_call();
        }
        let principal = caller.principal.clone();
        self.within_limits(request.headers(), request.extensions(), peer, caller).map_err(|status| {
            principal.note_status(Some(&status));
            status.into()
        })
    }

    /// Admits a call whose caller is known.
    fn within_limits(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        peer: Peer,
        caller: Identified,
    ) -> Result<Admitted, Status> {
        if header_bytes(headers) > METADATA_BYTES_MAX {
            return Err(status::metadata_too_large(METADATA_BYTES_MAX));
        }
        let deadline = match timeout(headers) {
            Ok(None) => None,
            Ok(Some(Duration::ZERO)) => return Err(status::deadline_exceeded()),
            Ok(Some(timeout)) => Some(Instant::now() + timeout),
            Err(Malformed) => return Err(status::malformed_timeout()),
        };
        let is_open = caller.place.is_some() || extensions.get::<HealthCheck>().is_some();
        let place = match is_open {
            true => None,
            false => {
                let place = self.places.acquire(caller.client.caller(), 1).map_err(status::of_limit)?;
                Some(Arc::new(place))
            }
        };
        let answer = answer_purpose(extensions);
        let admitted = Admitted::unbounded(peer, caller, &self.budget, answer);
        Ok(Admitted { deadline, _place: place, ..admitted })
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated { inner, gate: self.clone() }
    }
}

/// A service whose calls pass the gate first.
#[derive(Debug, Clone)]
pub struct Gated<S> {
    inner: S,
    gate: Gate,
}

type Answered<E> = Result<http::Response<Body>, E>;
/// The answer to a call that is refused, which may wait.
type Refusal<E> = Either<Ready<Answered<E>>, Pin<Box<dyn Future<Output = Answered<E>> + Send>>>;

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Refusal<S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.gate.admit(&request) {
            Ok(admitted) => {
                request.extensions_mut().insert(admitted);
                Either::Left(self.inner.call(request))
            }
            Err(refused) => Either::Right(refusal(refused)),
        }
    }
}

fn refusal<E: Send + 'static>(refused: Refused) -> Refusal<E> {
    let Refused { status, delay } = refused;
    match delay {
        None => Either::Left(ready(Ok(status.into_http()))),
        Some(delay) => {
            let answer: Answered<E> = Ok(status.into_http());
            Either::Right(Box::pin(delay.wait().map(|()| answer)))
        }
    }
}

/// Marks a health check, which does not count against the limit: its client decides whether the
/// service is kept running, and sends the most checks when it is busiest.
#[derive(Debug, Clone, Copy)]
struct HealthCheck;

/// Marks a call whose response reports what it has stored.
#[derive(Debug, Clone, Copy)]
struct AnswersWrite;

/// Returns the purpose for which the bytes of a call's response count.
pub fn answer_purpose(extensions: &http::Extensions) -> Purpose {
    match extensions.get::<AnswersWrite>() {
        Some(AnswersWrite) => Purpose::WriteAnswer,
        None => Purpose::Answer,
    }
}

/// Runs before the gate, whose limits depend on the method.
pub fn note_arrival<B>(mut request: http::Request<B>) -> http::Request<B> {
    let path = request.uri().path();
    if methods::is_write(path) {
        request.extensions_mut().insert(AnswersWrite);
    } else if methods::is_health_check(path) {
        request.extensions_mut().insert(HealthCheck);
    }
    request
}

/// Admits the request of a test, which has no path.
#[cfg(test)]
impl tonic::service::Interceptor for Gate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let caller = Identified::by_connection(&peer);
        let admitted = self.within_limits(request.metadata().as_ref(), request.extensions(), peer, caller)?;
        request.extensions_mut().insert(admitted);
        Ok(request)
    }
}

fn header_bytes(headers: &HeaderMap) -> usize {
    const OVERHEAD: usize = 32;
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD).sum()
}

impl Admitted {
    fn unbounded(peer: Peer, caller: Identified, budget: &ByteBudget, answer: Purpose) -> Self {
        let Identified { principal, client, place } = caller;
        Self {
            deadline: None,
            request: budget.of_call(client.caller(), Purpose::Request),
            answer: budget.of_call(client.caller(), answer),
            peer,
            principal,
            client,
            _place: None,
            _open: place.map(Arc::new),
            _stream: None,
        }
    }

    /// Returns the call that a request belongs to. A call that did not pass a gate has no limits.
    pub fn of<T>(request: &Request<T>) -> Self {
        let admitted = request.extensions().get::<Self>().cloned();
        admitted.unwrap_or_else(|| {
            let peer = Peer::default();
            let caller = Identified::by_connection(&peer);
            Self::unbounded(peer, caller, &ByteBudget::new(usize::MAX), Purpose::Answer)
        })
    }

    /// Also counts the call against the limit on open streams.
    ///
    /// # Errors
    /// Returns an error if the limit is reached, or if the client has used up its share.
    pub fn streaming(self, streams: &Arc<SharedLimit>) -> Result<Self, Status> {
        let place = streams.acquire(self.client.caller(), 1).map_err(status::of_limit)?;
        Ok(Self { _stream: Some(Arc::new(place)), ..self })
    }

    /// Returns the client on whose behalf a write of this call waits.
    pub fn origin(&self) -> Origin {
        let request = self.request.clone();
        Origin {
            caller: self.client.caller().clone(),
            counted: Some(Box::new(move || request.force(0))),
            recorded_by: self.principal.recorded_by(),
            admission: self.client.admission(),
            ..Origin::default()
        }
    }

    /// Records in the access log that the call is refused because of who calls.
    pub(in crate::grpc) fn note_refusal(&self, status: &Status) {
        self.principal.note_status(Some(status));
    }

    /// Records that the call uses a right, which decides whether the access log has it.
    pub(in crate::grpc) fn note_right(&self, right: Right) {
        self.principal.note_right(right);
    }

    /// Records what the call has stored, for the access log.
    pub(in crate::grpc) fn note_stored(&self, events: u64, first_position: u64) {
        self.principal.note_stored(events, first_position);
    }

    /// Runs a unary call within the client's deadline.
    ///
    /// # Errors
    /// Returns the error of the work, or an error if the deadline expires.
    pub fn within<T>(
        self,
        work: impl Future<Output = Result<T, Status>>,
    ) -> impl Future<Output = Result<Response<T>, Status>> {
        let done = self.in_time(work);
        done.map(move |done| {
            // Captures the whole call, not only the field used here, so that it counts until the
            // work has ended.
            let call = self;
            // The response may wait for its client for a long time.
            call.request.force(0);
            done.map(Response::new)
        })
    }

    /// Runs work within the client's deadline. If the deadline has already expired when this is
    /// called, the work is not started.
    ///
    /// # Errors
    /// Returns the error of the work, or an error if the deadline expires.
    pub fn in_time<T, W: Future<Output = Result<T, Status>>>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, Status>> + use<T, W> {
        // An `async fn` would hold the work in memory twice: as its argument, and while awaiting
        // it.
        match self.deadline {
            None => Either::Left(work),
            Some(deadline) if deadline <= Instant::now() => {
                Either::Right(Either::Left(ready(Err(status::deadline_exceeded()))))
            }
            Some(deadline) => {
                let done = tokio::time::timeout_at(deadline, work);
                let done = done.map(|done| done.unwrap_or_else(|_| Err(status::deadline_exceeded())));
                Either::Right(Either::Right(done))
            }
        }
    }
}

/// The error for an invalid `grpc-timeout`.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// Returns the time left until the client's deadline. tonic enforces the same deadline but answers
/// CANCELLED, so this deadline must expire first. A millisecond is too short to do anything.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    const AHEAD_MIN: Duration = Duration::from_millis(1);
    const AHEAD_MAX: Duration = Duration::from_millis(50);
    /// The protocol does not allow more digits, and the clock could not represent more.
    const DIGITS_MAX: usize = 8;
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let (unit, digits) = value.as_bytes().split_last().ok_or(Malformed)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let count = digits.iter().fold(0u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(Malformed),
    };
    Ok(Some(timeout.saturating_sub((timeout / 10).clamp(AHEAD_MIN, AHEAD_MAX))))
}

#[cfg(test)]
mod tests {
    use tonic::service::Interceptor;

    use super::*;

    fn with_timeout(text: &'static str) -> Result<Option<Duration>, Malformed> {
        timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]))
    }

    fn gate(calls_max: usize) -> Gate {
        Gate::new(calls_max, ByteBudget::new(1 << 20))
    }

    #[test]
    fn a_deadline_is_the_callers_in_every_unit_and_a_little_less() {
        let less = |timeout: Duration, ahead: u64| Ok(Some(timeout - Duration::from_millis(ahead)));
        assert_eq!(with_timeout("2H"), less(Duration::from_secs(7200), 50));
        assert_eq!(with_timeout("3M"), less(Duration::from_secs(180), 50));
        assert_eq!(with_timeout("4S"), less(Duration::from_secs(4), 50));
        assert_eq!(with_timeout("100m"), less(Duration::from_millis(100), 10));
        assert_eq!(with_timeout("99999999u"), less(Duration::from_micros(99_999_999), 50));
        assert_eq!(with_timeout("3m"), less(Duration::from_millis(3), 1));
        for none in ["1n", "1000u", "1m", "0S"] {
            assert_eq!(with_timeout(none), Ok(Some(Duration::ZERO)), "{none}");
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn what_the_protocol_does_not_know_as_a_deadline_is_malformed() {
        for text in
            ["", "S", "5", "5x", "-5S", "+5S", "5.0S", " 5S", "5 S", "99999999999999999H", "123456789n"]
        {
            assert_eq!(with_timeout(text), Err(Malformed), "{text}");
            let mut request = Request::new(());
            request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(gate(1).call(request).unwrap_err().code(), tonic::Code::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn a_deadline_that_is_over_lets_no_call_in() {
        let mut request = Request::new(());
        request.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
        assert_eq!(gate(1).call(request).unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn nothing_is_begun_after_the_deadline() {
        let mut request = Request::new(());
        request.metadata_mut().insert("grpc-timeout", "2m".parse().unwrap());
        let admitted = Admitted::of(&gate(1).call(request).unwrap());
        while admitted.deadline.unwrap() > Instant::now() {}
        let begun = admitted.in_time(async { panic!("it was begun") as Result<(), Status> }).await;
        assert_eq!(begun.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }

    #[test]
    fn too_much_metadata_is_refused_by_name() {
        let mut request = Request::new(());
        request.metadata_mut().insert("x-filler", "f".repeat(METADATA_BYTES_MAX - 100).parse().unwrap());
        let mut request = gate(1).call(request).unwrap();
        request.metadata_mut().insert("x-more", "f".repeat(100).parse().unwrap());
        assert_eq!(gate(1).call(request).unwrap_err().code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn a_place_is_taken_until_the_call_is_over() {
        let mut gate = gate(1);
        let first = gate.call(Request::new(())).unwrap();
        let admitted = Admitted::of(&first);
        drop(first);
        assert_eq!(gate.call(Request::new(())).unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop(admitted);
        gate.call(Request::new(())).unwrap();
    }

    #[tokio::test]
    async fn a_place_is_taken_while_the_work_goes_on() {
        let mut gate = gate(1);
        let admitted = Admitted::of(&gate.call(Request::new(())).unwrap());
        let mut work = Box::pin(admitted.within(std::future::pending::<Result<(), Status>>()));
        assert!(futures_util::poll!(&mut work).is_pending());
        assert_eq!(gate.call(Request::new(())).unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop(work);
        gate.call(Request::new(())).unwrap();
    }

    #[tokio::test]
    async fn a_request_counts_until_it_waits_as_a_write_or_its_call_is_over() {
        let budget = ByteBudget::new(1 << 20);
        let request = Gate::new(10, budget.clone()).call(Request::new(())).unwrap();
        let admitted = Admitted::of(&request);
        admitted.request.resize(10_000).unwrap();
        let origin = admitted.origin();
        assert_eq!(budget.used(), 10_000);
        origin.counted.unwrap()();
        assert_eq!(budget.used(), 0);
        admitted.request.resize(10_000).unwrap();
        admitted.clone().within(async { Ok(()) }).await.unwrap();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_connection_does_not_take_all_places() {
        let (mut gate, greedy) = (gate(10), Peer::default());
        let call = |gate: &mut Gate, peer: &Peer| {
            let mut request = Request::new(());
            request.extensions_mut().insert(peer.clone());
            gate.call(request)
        };
        let admitted: Vec<_> =
            std::iter::repeat_with(|| call(&mut gate, &greedy)).map_while(Result::ok).take(11).collect();
        assert_eq!(admitted.len(), 8);
        call(&mut gate, &Peer::default()).unwrap();
    }
}
