//! Accepts the connections of all listeners, up to a limit, with or without TLS.
//!
//! A connection beyond the limit is closed at once: the client sees UNAVAILABLE and retries,
//! instead of waiting in a queue that is not served. A connection counts from its first byte. Each
//! TLS handshake has a task of its own, so one that stalls delays nobody else.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, stream};
use rustls::ServerConfig;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    addresses::{AddressLimit, AddressPlace},
    byte_budget::ByteBudget,
    client::Client,
    connection_facts::ConnectionFacts,
    connections::{Connection, ConnectionTimeouts, NewConnection},
    listeners::{Accepted, Listeners},
    peer::Peer,
    socket::Socket,
};
use crate::{
    error::Limit,
    refusals::{self, Severity},
    shared_limit::{Resource, SharedLimit},
};

/// The pause after an error of the system: too many open files, or a client that is already gone.
/// Neither improves at once.
const PAUSE: Duration = Duration::from_millis(100);

/// The TLS settings of new connections, with the certificate of the service.
pub type TlsSettings = watch::Receiver<Arc<ServerConfig>>;

/// The maximum number of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Of all peers.
    pub connections_max: usize,
    /// Of one address that is not a loopback address.
    pub per_address_max: usize,
}

/// Creates connections within the limits.
#[derive(Debug)]
pub struct Acceptor {
    connections_max: usize,
    places: Arc<Semaphore>,
    /// The same places, for the shares of identities.
    shared: Arc<SharedLimit>,
    addresses: AddressLimit,
    patience: ConnectionTimeouts,
    budget: ByteBudget,
    closing: CancellationToken,
    /// `None`: TCP connections are not encrypted.
    tls: Option<TlsSettings>,
}

/// The places of a connection, which it holds until it is closed.
#[derive(Debug)]
pub(super) struct Places {
    _of_all: OwnedSemaphorePermit,
    _of_address: Option<AddressPlace>,
}

/// A connection within the limits whose transport is not ready yet.
#[derive(Debug)]
struct Arrival {
    facts: ConnectionFacts,
    places: Places,
    at: Instant,
}

/// What is accepted. The listeners are closed, and the handshakes in progress end, when it is
/// dropped.
struct Incoming {
    acceptor: Acceptor,
    listeners: Listeners,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, Arrival)>>,
}

impl Acceptor {
    /// Creates an acceptor, whose connections notice that the service is stopping by `closing`.
    pub fn new(
        limits: ConnectionLimits,
        patience: ConnectionTimeouts,
        budget: ByteBudget,
        closing: CancellationToken,
        tls: Option<TlsSettings>,
    ) -> Self {
        let ConnectionLimits { connections_max, per_address_max } = limits;
        let shared = SharedLimit::new(Limit::Connections, Resource::Connections, connections_max as u64);
        Self {
            connections_max,
            places: Arc::new(Semaphore::new(connections_max)),
            shared: Arc::new(shared),
            addresses: AddressLimit::new(per_address_max),
            patience,
            budget,
            closing,
            tls,
        }
    }

    /// Returns the connections of all listeners, until the stream is dropped.
    pub fn accept(self, listeners: Listeners) -> impl Stream<Item = io::Result<Connection>> {
        let incoming = Incoming { acceptor: self, listeners, handshakes: JoinSet::new() };
        stream::unfold(incoming, |mut incoming| async move {
            let connection = incoming.next().await;
            Some((Ok(connection), incoming))
        })
    }

    /// Returns the places of a connection from an address, which is `None` for a unix socket.
    fn places(&self, address: Option<IpAddr>) -> Option<Places> {
        let Ok(of_all) = self.places.clone().try_acquire_owned() else {
            let message = format!("limits.connections_max: limit of {} reached", self.connections_max);
            refusals::refused("CONNECTIONS", Severity::Limit, &message);
            return None;
        };
        let of_address = match address {
            None => None,
            Some(address) => {
                let Ok(place) = self.addresses.acquire(address) else {
                    let max = self.addresses.max();
                    let message =
                        format!("limits.connections_per_address_max: limit of {max} reached by {address}");
                    refusals::refused("CONNECTIONS_PER_ADDRESS", Severity::Limit, &message);
                    return None;
                };
                place
            }
        };
        Some(Places { _of_all: of_all, _of_address: of_address })
    }

    fn arrival_by_tcp(&self, stream: &TcpStream, address: SocketAddr) -> Option<Arrival> {
        let places = self.places(Some(address.ip()))?;
        if let Err(error) = stream.set_nodelay(true) {
            warn!(%error, "connection closed by the client while it was accepted");
            return None;
        }
        let facts = ConnectionFacts::of_cleartext(address, stream.local_addr().ok());
        Some(Arrival { facts, places, at: Instant::now() })
    }

    fn arrival_by_unix_socket(&self, stream: &UnixStream) -> Option<Arrival> {
        let places = self.places(None)?;
        let uid = match stream.peer_cred() {
            Ok(peer) => Some(peer.uid()),
            Err(error) => {
                warn!(%error, "cannot determine the user at the other end of a unix socket");
                None
            }
        };
        Some(Arrival { facts: ConnectionFacts::of_unix_socket(uid), places, at: Instant::now() })
    }

    fn connection(&self, socket: Socket, arrival: Arrival) -> Connection {
        let Arrival { facts, places, at } = arrival;
        let peer = Peer::new(facts, Client::default());
        peer.count_connection(&self.shared);
        let new = NewConnection { socket, peer, places, accepted: at };
        Connection::new(new, self.patience, self.budget.clone(), self.closing.clone())
    }
}

impl Incoming {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some((stream, arrival))) = ended {
                        return self.acceptor.connection(Socket::Tls(Box::new(stream)), arrival);
                    }
                }
                accepted = poll_fn(|cx| self.listeners.poll_accept(cx)) => match accepted {
                    Ok(accepted) => {
                        if let Some(connection) = self.begin(accepted) {
                            return connection;
                        }
                    }
                    Err(error) => {
                        refusals::failed("cannot accept a connection", &error);
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    /// Returns the connection, or `None` if it is refused or begins with a handshake.
    fn begin(&mut self, accepted: Accepted) -> Option<Connection> {
        match accepted {
            Accepted::Unix(stream) => {
                let arrival = self.acceptor.arrival_by_unix_socket(&stream)?;
                Some(self.acceptor.connection(Socket::Unix(stream), arrival))
            }
            Accepted::Tcp(stream, address) => {
                let arrival = self.acceptor.arrival_by_tcp(&stream, address)?;
                let Some(tls) = &self.acceptor.tls else {
                    return Some(self.acceptor.connection(Socket::Tcp(stream), arrival));
                };
                // The settings of the moment apply to the whole connection.
                let acceptor = TlsAcceptor::from(tls.borrow().clone());
                let max = self.acceptor.patience.first_call_max;
                self.handshakes.spawn(shake_hands(acceptor, stream, arrival, max));
                None
            }
        }
    }
}

/// Completes the TLS handshake. It may take as long as a connection may exist before its first
/// call.
async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    arrival: Arrival,
    max: Duration,
) -> Option<(TlsStream<TcpStream>, Arrival)> {
    match tokio::time::timeout_at(arrival.at + max, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            let facts = arrival.facts.with_tls(session.peer_certificates());
            Some((stream, Arrival { facts, ..arrival }))
        }
        Ok(Err(error)) => {
            note_failure(arrival.facts.address.map(|address| address.ip()), &error);
            None
        }
        Err(_) => {
            debug!("closing connection: no TLS handshake within server.first_call_max");
            None
        }
    }
}

/// Records a handshake that failed, unless the client only closed the connection.
fn note_failure(address: Option<IpAddr>, error: &io::Error) {
    if is_of_tls(error) {
        let from = address.map(|address| format!(" with {address}")).unwrap_or_default();
        refusals::refused("TLS_HANDSHAKE", Severity::Limit, &format!("TLS handshake{from}: {error}"));
    } else {
        debug!(%error, "connection closed by the client during the TLS handshake");
    }
}

/// Returns whether the two sides did not agree. Other errors are those of the connection.
fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|source| source.is::<rustls::Error>())
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, pin::pin};

    use aethyr_test_support::tls::Authority;
    use futures_util::StreamExt;
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsConnector;
    use tonic::transport::server::Connected;

    use super::*;

    fn acceptor(connections_max: usize, tls: Option<TlsSettings>) -> Acceptor {
        let limits = ConnectionLimits { connections_max, per_address_max: 1 };
        let long = Duration::from_secs(3600);
        let patience =
            ConnectionTimeouts { first_call_max: long, unread_max: long, unread_max_at_stop: long };
        Acceptor::new(limits, patience, ByteBudget::new(1 << 20), CancellationToken::new(), tls)
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Returns the settings of a server with a new certificate, and of a client that trusts it.
    fn tls() -> (TlsSettings, TlsConnector) {
        let authority = Authority::new("test");
        let pair = authority.server();
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate(&pair.certificate)], key)
            .unwrap();
        let mut authorities = RootCertStore::empty();
        authorities.add(certificate(authority.pem())).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(authorities)
            .with_no_client_auth();
        (watch::channel(Arc::new(server)).1, TlsConnector::from(Arc::new(client)))
    }

    #[tokio::test]
    async fn stalled_handshakes_hold_places_and_delay_nobody() {
        const STALLED: usize = 50;
        let (settings, connector) = tls();
        let (listener, address) = listener().await;
        let acceptor = acceptor(STALLED + 1, Some(settings));
        let places = acceptor.places.clone();
        let mut incoming = pin!(acceptor.accept(listener.into()));
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
            stalled.push(stream);
        }
        let client = async {
            let stream = TcpStream::connect(address).await.unwrap();
            connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
        };
        let (connection, _client) = tokio::join!(incoming.next(), client);
        let connection = connection.unwrap().unwrap();
        let facts = connection.connect_info().facts().clone();
        assert!(facts.is_tls && facts.is_protected && !facts.has_certificate);
        assert_eq!(facts.address.unwrap().ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(places.available_permits(), 0);
        drop(connection);
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_client_over_tls_that_reads_nothing_is_noticed_while_output_is_flushed() {
        let (settings, connector) = tls();
        let (listener, address) = listener().await;
        let mut incoming = pin!(acceptor(1, Some(settings)).accept(listener.into()));
        let client = async {
            let stream = TcpStream::connect(address).await.unwrap();
            connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
        };
        let (connection, _client) = tokio::join!(incoming.next(), client);
        let mut connection = connection.unwrap().unwrap();
        connection.connect_info().note_call();
        tokio::time::pause();
        let ends = async {
            loop {
                let written = async {
                    connection.write_all(&[0; 16 * 1024]).await?;
                    connection.flush().await
                };
                if let Err(error) = written.await {
                    break error;
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(24 * 3600), ends).await.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_closed_at_once() {
        let (listener, address) = listener().await;
        let mut incoming = pin!(acceptor(1, None).accept(listener.into()));
        let first = TcpStream::connect(address).await.unwrap();
        let held = incoming.next().await.unwrap().unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut received = [0];
        tokio::select! {
            _ = incoming.next() => panic!("it was accepted"),
            read = second.read(&mut received) => assert_eq!(read.unwrap_or_default(), 0),
        }
        drop((held, first));
        let third = TcpStream::connect(address).await.unwrap();
        let accepted = incoming.next().await.unwrap().unwrap();
        assert_eq!(accepted.connect_info().facts().address, third.local_addr().ok());
    }

    #[tokio::test]
    async fn only_disagreements_about_tls_are_refusals() {
        let (settings, _) = tls();
        let (listener, address) = listener().await;
        let mut failures = Vec::new();
        for sent in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(sent).await.unwrap();
            client.shutdown().await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let config = settings.borrow().clone();
            let error = TlsAcceptor::from(config).accept(stream).await.unwrap_err();
            failures.push(is_of_tls(&error));
        }
        assert_eq!(failures, [false, true]);
    }
}
