//! The clients that the limits distinguish: identities, or connections while access control is off.
//!
//! A client has its shares of the limits, its permits for reads, its rates, and what it has used up
//! for good. The clients of identities are kept in a registry, so that all connections and calls of
//! an identity share one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::Semaphore;

use super::read_limits::{DIFFERENCES_PER_CALLER_MAX, READS_PER_CALLER_MAX};
use crate::{
    access::{Identity, Shares},
    error::OverShare,
    rate_limit::RateLimits,
    shared_limit::{Admission, Caller, Reserved, Resource, WriteSize},
    usage::{Usage, UseLimits},
};

/// A client whose shares the limits know. Cheap to clone. The default is one connection.
#[derive(Debug, Clone, Default)]
pub struct Client(Arc<ClientState>);

#[derive(Debug)]
struct ClientState {
    /// The client whose share of the limits its calls use.
    caller: Caller,
    /// Permits for its reads.
    reads: Arc<Semaphore>,
    /// Permits for its lists, which also are reads.
    lists: Arc<Semaphore>,
    /// Permits for its differences while they determine which objects changed.
    differences: Arc<Semaphore>,
    /// `None` for a connection.
    identity: Option<IdentityState>,
}

/// What only identities have.
#[derive(Debug)]
struct IdentityState {
    name: Arc<str>,
    limits: Mutex<IdentityLimits>,
    usage: Usage,
}

#[derive(Debug)]
struct IdentityLimits {
    rates: RateLimits,
    used_up: UseLimits,
}

impl Default for ClientState {
    fn default() -> Self {
        Self::new(Caller::default(), None)
    }
}

impl ClientState {
    fn new(caller: Caller, identity: Option<IdentityState>) -> Self {
        Self {
            caller,
            reads: Arc::new(Semaphore::new(READS_PER_CALLER_MAX)),
            lists: Arc::new(Semaphore::new(READS_PER_CALLER_MAX)),
            differences: Arc::new(Semaphore::new(DIFFERENCES_PER_CALLER_MAX)),
            identity,
        }
    }
}

impl IdentityLimits {
    fn new(shares: &Shares, now: Instant) -> Self {
        let Shares { share, stored_bytes_max, types_max, .. } = *shares;
        let rates = [shares.appends_per_second, shares.events_per_second, shares.bytes_per_second];
        Self { rates: RateLimits::new(rates, now), used_up: UseLimits { share, stored_bytes_max, types_max } }
    }
}

impl IdentityState {
    fn limits(&self) -> MutexGuard<'_, IdentityLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn of_identity(identity: &Identity, usage: Usage, now: Instant) -> Self {
        let limits = Mutex::new(IdentityLimits::new(&identity.shares, now));
        let state = IdentityState { name: identity.name.clone(), limits, usage };
        Self(Arc::new(ClientState::new(Caller::of_identity(identity.shares.share), Some(state))))
    }

    /// Returns the client whose share of the limits the calls use.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// Returns whether it is an identity, not one connection.
    pub fn is_identity(&self) -> bool {
        self.0.identity.is_some()
    }

    /// Returns the permits for the reads of this client.
    pub fn reads(&self) -> &Arc<Semaphore> {
        &self.0.reads
    }

    /// Returns the permits for its lists, which also are reads.
    pub fn lists(&self) -> &Arc<Semaphore> {
        &self.0.lists
    }

    /// Returns the permits for its differences while they determine which objects changed.
    pub fn differences(&self) -> &Arc<Semaphore> {
        &self.0.differences
    }

    /// Returns what decides whether a call of this client may store something. Its rates count the
    /// call once, however often it is attempted. Returns `None` for a connection.
    pub fn admission(&self) -> Option<Arc<dyn Admission>> {
        self.0.identity.as_ref()?;
        Some(Arc::new(CallAdmission { client: self.clone(), is_counted: AtomicBool::new(false) }))
    }

    fn admit(&self, write: &WriteSize<'_>, is_counted: bool, now: Instant) -> Result<Reserved, OverShare> {
        let Some(identity) = &self.0.identity else { return Ok(None) };
        let mut limits = identity.limits();
        let amounts = [1, write.events, write.bytes];
        if !is_counted {
            limits.rates.check(amounts, now)?;
        }
        let reserved = identity.usage.reserve(&identity.name, &limits.used_up, write)?;
        if !is_counted {
            limits.rates.take(amounts, now)?;
        }
        Ok(reserved)
    }

    /// Applies changed shares from now on.
    fn change(&self, shares: &Shares, now: Instant) {
        self.0.caller.set_share(shares.share);
        if let Some(identity) = &self.0.identity {
            *identity.limits() = IdentityLimits::new(shares, now);
        }
    }

    /// Returns whether a new client would be the same.
    fn is_unused(&self, now: Instant) -> bool {
        let is_full = |identity: &IdentityState| identity.limits().rates.are_full(now);
        Arc::strong_count(&self.0) == 1
            && self.0.caller.is_unused()
            && self.0.identity.as_ref().is_none_or(is_full)
    }
}

/// The admission of the writes of one call.
struct CallAdmission {
    client: Client,
    /// Whether the rates have counted the call.
    is_counted: AtomicBool,
}

impl Admission for CallAdmission {
    fn admit(&self, write: &WriteSize<'_>) -> Result<Reserved, OverShare> {
        let is_counted = self.is_counted.load(Ordering::Relaxed);
        let reserved = self.client.admit(write, is_counted, Instant::now())?;
        self.is_counted.store(true, Ordering::Relaxed);
        Ok(reserved)
    }
}

/// What one identity uses at the moment, and what it has stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientUsage {
    /// The name of the identity.
    pub name: Arc<str>,
    /// Its calls in progress.
    pub calls: u64,
    /// Its open streams.
    pub streams: u64,
    /// The memory for its requests, its reads in progress and its responses.
    pub bytes: u64,
    /// Its writes that wait for the sequencer.
    pub waiting_writes: u64,
    /// Its open connections.
    pub connections: u64,
    /// The bytes of its events, as far as they have been derived from the log.
    pub stored_bytes: u64,
    /// The event types that it has introduced, as far as they have been derived from the log.
    pub types: u64,
}

/// The clients of all identities, by name. A client is kept over changes of the policy. Cheap to
/// clone.
#[derive(Debug, Clone, Default)]
pub struct ClientRegistry(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    clients: Mutex<HashMap<Arc<str>, Registered>>,
    usage: Usage,
}

#[derive(Debug)]
struct Registered {
    client: Client,
    /// The shares that the client has.
    shares: Shares,
}

impl ClientRegistry {
    /// The number of clients above which unused ones are removed. Names change with the policy.
    const CLIENTS_MAX: usize = 1024;

    /// Creates a registry without clients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the client of an identity, with the shares that the identity has now.
    pub fn of(&self, identity: &Identity) -> Client {
        self.at(identity, Instant::now)
    }

    fn at(&self, identity: &Identity, now: impl Fn() -> Instant) -> Client {
        let mut clients = self.clients();
        if let Some(Registered { client, shares }) = clients.get_mut(&identity.name) {
            if *shares != identity.shares {
                client.change(&identity.shares, now());
                shares.clone_from(&identity.shares);
            }
            return client.clone();
        }
        if clients.len() >= Self::CLIENTS_MAX {
            let now = now();
            clients.retain(|_, registered| !registered.client.is_unused(now));
        }
        let client = Client::of_identity(identity, self.0.usage.clone(), now());
        let registered = Registered { client: client.clone(), shares: identity.shares.clone() };
        clients.insert(identity.name.clone(), registered);
        client
    }

    /// Returns what the identities have used up for good. A follower of the log keeps it up to
    /// date.
    pub(crate) fn used_up(&self) -> &Usage {
        &self.0.usage
    }

    /// Returns what each identity uses, by name. Includes those that have called since the start,
    /// and those that have stored events.
    pub fn usage(&self) -> Vec<ClientUsage> {
        let mut usage: BTreeMap<Arc<str>, ClientUsage> = BTreeMap::new();
        for (name, Registered { client, .. }) in &*self.clients() {
            let held = |resource| client.caller().held(resource);
            let client = ClientUsage {
                name: name.clone(),
                calls: held(Resource::Calls),
                streams: held(Resource::Streams),
                bytes: held(Resource::Bytes),
                waiting_writes: held(Resource::WaitingWrites),
                connections: held(Resource::Connections),
                ..ClientUsage::default()
            };
            usage.insert(name.clone(), client);
        }
        for (name, stored) in self.0.usage.stored() {
            let new = || ClientUsage { name: name.clone(), ..ClientUsage::default() };
            let client = usage.entry(name.clone()).or_insert_with(new);
            (client.stored_bytes, client.types) = (stored.bytes, stored.types);
        }
        usage.into_values().collect()
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Arc<str>, Registered>> {
        self.0.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::{
        access::{Rights, Scope},
        error::{Limit, ShareLimit},
        log::Tip,
        shared_limit::SharedLimit,
    };

    /// A rate whose bucket is not refilled while a test runs.
    const SLOW: f64 = 1e-6;

    /// Returns an identity that may do everything, with default shares.
    pub(crate) fn identity(name: &str) -> Identity {
        Identity {
            name: name.into(),
            role: "admin".into(),
            rights: Rights::ALL,
            scope: Scope::default(),
            actors: None,
            event_types: None,
            shares: Shares {
                share: 0.5,
                appends_per_second: None,
                events_per_second: None,
                bytes_per_second: None,
                stored_bytes_max: None,
                types_max: None,
            },
        }
    }

    fn with(name: &str, change: impl FnOnce(&mut Shares)) -> Identity {
        let mut identity = identity(name);
        change(&mut identity.shares);
        identity
    }

    fn write(events: u64) -> WriteSize<'static> {
        WriteSize { events, bytes: 100, event_types: vec!["happened"] }
    }

    #[test]
    fn all_calls_of_an_identity_share_one_client_and_connections_do_not() {
        let registry = ClientRegistry::new();
        let clients = ["arena", "arena", "town"].map(|name| registry.of(&identity(name)));
        assert!(clients[0].caller().is(clients[1].caller()));
        assert!(!clients[0].caller().is(clients[2].caller()));
        let permit = clients[0].reads().try_acquire_many(READS_PER_CALLER_MAX as u32).unwrap();
        clients[1].reads().try_acquire().unwrap_err();
        drop(clients[2].reads().try_acquire().unwrap());
        drop(permit);
        assert!(!Client::default().caller().is(Client::default().caller()));
        assert!(Client::default().admission().is_none());
    }

    #[test]
    fn one_identity_leaves_room_for_another_on_however_many_connections() {
        let registry = ClientRegistry::new();
        let streams = Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, 1000));
        let mut held = Vec::new();
        let refused = loop {
            match streams.acquire(registry.of(&identity("greedy")).caller(), 1) {
                Ok(one) => held.push(one),
                Err(refused) => break refused,
            }
        };
        assert_eq!((held.len(), refused.share, refused.is_identity), (800, Some(500), true));
        let other = registry.of(&identity("other"));
        held.extend((0..200).map(|_| streams.acquire(other.caller(), 1).unwrap()));
        let usage = registry.usage();
        let [greedy, other] = &usage[..] else { panic!("{usage:?}") };
        assert_eq!((&*greedy.name, greedy.streams), ("greedy", 800));
        assert_eq!((&*other.name, other.streams), ("other", 200));
    }

    #[test]
    fn changed_shares_apply_to_the_client_that_exists() {
        let registry = ClientRegistry::new();
        let client = registry.of(&identity("arena"));
        let bytes = Arc::new(SharedLimit::new(Limit::CallBytes, Resource::Bytes, 1000));
        let mut held = bytes.acquire(client.caller(), 800).unwrap();
        held.resize(900).unwrap_err();
        registry.of(&with("arena", |shares| shares.share = 0.9));
        held.resize(900).unwrap();
        client.admission().unwrap().admit(&write(1000)).unwrap();
        registry.of(&with("arena", |shares| shares.events_per_second = Some(SLOW)));
        client.admission().unwrap().admit(&write(10)).unwrap();
        let over = client.admission().unwrap().admit(&write(10)).unwrap_err();
        assert_eq!(over.limit, ShareLimit::EventsPerSecond);
    }

    #[test]
    fn a_call_is_counted_once_however_often_it_is_attempted() {
        let registry = ClientRegistry::new();
        let slow = with("arena", |shares| shares.appends_per_second = Some(SLOW));
        let client = registry.of(&slow);
        let [first, second] = [(); 2].map(|()| client.admission().unwrap());
        for _ in 0..3 {
            first.admit(&write(1)).unwrap();
        }
        for _ in 0..2 {
            let over = second.admit(&write(1)).unwrap_err();
            assert_eq!(over.limit, ShareLimit::AppendsPerSecond);
        }
        // All clients with this identity share its rates.
        assert!(registry.of(&slow).admission().unwrap().admit(&write(1)).is_err());
        registry.of(&identity("other")).admission().unwrap().admit(&write(1)).unwrap();
    }

    #[test]
    fn what_a_refused_write_reserved_is_released() {
        let (registry, tip) = (ClientRegistry::new(), watch::Sender::new(Tip::START));
        registry.used_up().follow_empty_log(&tip.subscribe());
        let client = registry.of(&with("arena", |shares| {
            shares.stored_bytes_max = Some(150);
            shares.events_per_second = Some(SLOW);
        }));
        client.admission().unwrap().admit(&write(1)).unwrap();
        for _ in 0..3 {
            let over = client.admission().unwrap().admit(&write(1)).unwrap_err();
            assert_eq!(over.limit, ShareLimit::EventsPerSecond);
        }
        let large = WriteSize { bytes: 151, ..write(0) };
        let over = client.admission().unwrap().admit(&large).unwrap_err();
        assert_eq!((over.limit, over.max), (ShareLimit::StoredBytes, 150));
    }

    #[test]
    fn clients_are_kept_while_they_are_used_or_their_rates_have_to_be_remembered() {
        let (registry, start) = (ClientRegistry::new(), Instant::now());
        let of =
            |identity: &Identity, seconds| registry.at(identity, || start + Duration::from_secs(seconds));
        let used = of(&identity("used"), 0);
        let rated = with("rated", |shares| shares.events_per_second = Some(100.0));
        of(&rated, 0).admit(&write(100), false, start).unwrap();
        let limit = Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, 10));
        let held = limit.acquire(of(&identity("held"), 0).caller(), 1).unwrap();
        let names: Vec<String> = (3..ClientRegistry::CLIENTS_MAX).map(|number| number.to_string()).collect();
        names.iter().for_each(|name| drop(of(&identity(name), 0)));
        let kept = || {
            let clients = registry.clients();
            ["used", "rated", "held", "3"].map(|name| clients.contains_key(name))
        };
        assert_eq!(kept(), [true; 4]);
        of(&identity("new"), 0);
        assert_eq!(kept(), [true, true, true, false]);
        drop((used, held));
        names.iter().for_each(|name| drop(of(&identity(name), 2)));
        assert_eq!(kept(), [false; 4]);
    }
}
