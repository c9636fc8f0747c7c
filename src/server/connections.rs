//! Accepting connections, up to a bound. One beyond it is closed at once: the caller sees UNAVAILABLE and
//! comes back, instead of hanging in a queue that nobody looks at. And one that is not worth its place is
//! closed: it has not called in time, or does not read what it asked for.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::{
    config::ServerConfig,
    grpc::{ByteBudget, Peer},
    refusals::{self, Severity},
    shared_limit::Resource,
};

/// How long a connection has its place for nothing.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until its first call.
    pub first_call_max: Duration,
    /// While an answer, or whatever else it was sent, is not read.
    pub unread_max: Duration,
    /// The same once the service stops.
    pub unread_max_at_stop: Duration,
}

/// A connection that counts until it is closed.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: Peer,
    budget: ByteBudget,
    accepted: Instant,
    /// Since when nothing more could be written.
    blocked: Option<Instant>,
    patience: Patience,
    look: Pin<Box<Sleep>>,
    /// Since when the service stops and no call is in progress.
    idle: Option<Instant>,
    /// The service stops; until it does.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    overdue: bool,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(
        stream: TcpStream,
        patience: Patience,
        budget: ByteBudget,
        closing: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            peer: Peer::default(),
            budget,
            accepted: Instant::now(),
            blocked: None,
            idle: None,
            patience,
            look: Box::pin(tokio::time::sleep(patience.look_every())),
            closing: Some(Box::pin(closing.cancelled_owned())),
            overdue: false,
            _permit: permit,
        }
    }

    /// Looks now and then whether the connection is worth its place. An error ends it, and all its calls.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closing.as_mut().is_some_and(|closing| closing.as_mut().poll(cx).is_ready()) {
            self.closing = None;
            // A stop waits for calls, and not for a connection without one.
            self.overdue |= !self.peer.has_called();
            self.patience.hurry();
            self.look.as_mut().reset(Instant::now() + self.patience.look_every());
        }
        let soon = self.next_look(Instant::now());
        if self.look.deadline() > soon {
            self.look.as_mut().reset(soon);
        }
        while !self.overdue && self.look.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let idle = self.closing.is_none() && !self.peer.is_calling() && self.blocked.is_none();
            self.idle = idle.then(|| self.idle.unwrap_or(now));
            if let Some(why) = self.fault(now) {
                debug!(why, "a connection is closed");
                self.overdue = true;
            }
            let next = self.next_look(now);
            self.look.as_mut().reset(next);
        }
        if self.overdue { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Answers to writes, whose unread bytes others may need soon, are looked after more often.
    fn next_look(&self, now: Instant) -> Instant {
        let every = self.patience.look_every();
        now + if self.has_write_answers() { every.min(WRITE_UNREAD_MAX / 4) } else { every }
    }

    fn has_write_answers(&self) -> bool {
        self.peer.caller().holds(Resource::WriteAnswerBytes)
    }

    fn fault(&self, now: Instant) -> Option<&'static str> {
        let over = |since: Instant, max: Duration| now.duration_since(since) >= max;
        if !self.peer.has_called() && over(self.accepted, self.patience.first_call_max) {
            return Some("no call within server.first_call_max");
        }
        if self.idle.is_some_and(|since| over(since, IDLE_MAX)) {
            return Some("the service stops, and the peer neither calls nor closes it");
        }
        if self.budget.write_answers_are_short() {
            let blocked = self.blocked.filter(|_| self.has_write_answers());
            let unread = [blocked, self.peer.write_unread_since()].into_iter().flatten().min();
            if unread.is_some_and(|since| over(since, WRITE_UNREAD_MAX)) {
                return Some("its answers to writes are unread, and others need the bytes");
            }
        }
        // A stop waits for those who read, however slow they are.
        let unread = match self.closing {
            Some(_) => self.peer.unread_since(),
            None => self.peer.unmoved_since(),
        };
        let unread = [self.blocked, unread].into_iter().flatten().min();
        unread.filter(|since| over(*since, self.patience.unread_max)).map(|_| "unread for server.unread_max")
    }
}

/// How long an answer to a write may lie unread once half of the bytes for such answers are in use.
const WRITE_UNREAD_MAX: Duration = Duration::from_secs(1);

/// At a stop a connection without a call is closed by its peer, which is asked to. One that has vanished does not.
const IDLE_MAX: Duration = Duration::from_secs(1);

impl Patience {
    pub fn new(config: &ServerConfig) -> Self {
        /// So much of the time that a stop gives to calls is for those who do not read.
        const PART_OF_GRACE: u32 = 10;
        const AT_STOP_MIN: Duration = Duration::from_millis(10);
        let unread_max_at_stop =
            config.unread_max.min(config.shutdown_grace / PART_OF_GRACE).max(AT_STOP_MIN);
        let ServerConfig { first_call_max, unread_max, .. } = *config;
        Self { first_call_max, unread_max, unread_max_at_stop }
    }

    /// The service stops, and waits for nobody who does not read.
    fn hurry(&mut self) {
        self.unread_max = self.unread_max_at_stop;
    }

    fn look_every(self) -> Duration {
        self.first_call_max.min(self.unread_max) / 4
    }
}

/// Open files that the service keeps for itself: the segments of the log, the index, the read models, the logs, and the
/// connection with ImmuDB.
const OWN_FILES: u64 = 1000;

/// Where a process may not open that many, it keeps at least this part of what it may, and not less than so many.
const OWN_FILES_PART: u64 = 2;

/// Raises the bound on open files, as far as it may be, and says how many connections leave the service the files
/// that it needs: at most `connections_max`.
pub fn make_room(connections_max: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = (connections_max as u64).saturating_add(OWN_FILES);
    let Some(mut current) = limit.current.filter(|current| *current < wanted) else {
        return connections_max;
    };
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }).is_ok() {
        current = raised;
    }
    let room = connections_within(connections_max, current);
    if room < connections_max {
        warn!(
            open_files_max = current,
            connections = room,
            wanted = connections_max,
            "this process may open too few files (ulimit -n) for limits.connections_max; it takes fewer connections"
        );
    }
    room
}

/// How many connections there may be where so many files may be open.
fn connections_within(connections_max: usize, open_files_max: u64) -> usize {
    let own = OWN_FILES.min(open_files_max / OWN_FILES_PART);
    let room = usize::try_from(open_files_max.saturating_sub(own)).unwrap_or(usize::MAX);
    connections_max.min(room).max(1)
}

/// The connections of `listener`, at most `max` at a time.
pub fn incoming(
    listener: TcpListener,
    max: usize,
    patience: Patience,
    budget: ByteBudget,
    closing: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    const PAUSE: Duration = Duration::from_millis(100);
    let start = (listener, Arc::new(Semaphore::new(max)));
    stream::unfold(start, move |(listener, places)| {
        let (budget, closing) = (budget.clone(), closing.clone());
        async move {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Too many open files, or a caller that is gone: neither gets better at once.
                        refusals::failed("a connection could not be accepted", &error);
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                };
                let Ok(permit) = places.clone().try_acquire_owned() else {
                    let message = format!("limits.connections_max: the limit of {max} is reached");
                    refusals::refused("CONNECTIONS", Severity::Limit, &message);
                    continue;
                };
                if let Err(error) = stream.set_nodelay(true) {
                    warn!(%error, "a connection is gone already");
                    continue;
                }
                let connection = Connection::new(stream, patience, budget.clone(), closing.clone(), permit);
                return Some((Ok(connection), (listener, places)));
            }
        }
    })
}

impl Connection {
    fn note<T>(&mut self, written: Poll<T>) -> Poll<T> {
        match written {
            Poll::Pending => _ = self.blocked.get_or_insert_with(Instant::now),
            Poll::Ready(_) => self.blocked = None,
        }
        written
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.look(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            // It is heard of.
            self.idle = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.look(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_service_its_files() {
        assert_eq!(connections_within(10_000, 1 << 20), 10_000);
        assert_eq!(connections_within(10_000, 4096), 3096);
        assert_eq!(connections_within(10_000, 256), 128);
        assert_eq!(connections_within(5, 256), 5);
    }
}
