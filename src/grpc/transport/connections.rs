//! Holds a connection for as long as it is of use.
//!
//! A connection is closed if its client does not make a call in time, or does not read its
//! responses. How connections are accepted is left to `accept`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{accept::Places, byte_budget::ByteBudget, peer::Peer, socket::Socket};
use crate::grpc::settings::TransportSettings;

/// How long a connection may be kept without being of use.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionTimeouts {
    /// Until its first call.
    pub first_call_max: Duration,
    /// While a response, or anything else sent to the client, is not read.
    pub unread_max: Duration,
    /// The same as `unread_max`, once the service is stopping.
    pub unread_max_at_stop: Duration,
}

/// A connection that counts against the limit until it is closed.
#[derive(Debug)]
pub struct Connection {
    stream: Socket,
    peer: Peer,
    budget: ByteBudget,
    accepted: Instant,
    /// Since when writes to the socket have been blocked.
    blocked: Option<Instant>,
    patience: ConnectionTimeouts,
    look: Pin<Box<Sleep>>,
    /// Since when the service has been stopping and no call has been in progress.
    idle: Option<Instant>,
    /// The wait for the service to stop. `None` once it is stopping.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    overdue: bool,
    _places: Places,
}

/// What a connection is created from.
#[derive(Debug)]
pub(super) struct NewConnection {
    pub socket: Socket,
    pub peer: Peer,
    pub places: Places,
    /// When it was accepted, before any handshake.
    pub accepted: Instant,
}

impl Connection {
    pub(super) fn new(
        new: NewConnection,
        patience: ConnectionTimeouts,
        budget: ByteBudget,
        closing: CancellationToken,
    ) -> Self {
        let NewConnection { socket: stream, peer, places, accepted } = new;
        Self {
            stream,
            peer,
            budget,
            accepted,
            blocked: None,
            idle: None,
            patience,
            look: Box::pin(tokio::time::sleep(patience.look_every())),
            closing: Some(Box::pin(closing.cancelled_owned())),
            overdue: false,
            _places: places,
        }
    }

    /// Checks now and then whether the connection may be kept. An error ends it, and all its calls.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.overdue |= self.peer.is_closing();
        if self.closing.as_mut().is_some_and(|closing| closing.as_mut().poll(cx).is_ready()) {
            self.closing = None;
            // A stop waits for calls, but not for a connection that never made one.
            self.overdue |= !self.peer.has_called() && !self.peer.is_calling();
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
                debug!(why, "closing connection");
                self.overdue = true;
            }
            let next = self.next_look(now);
            self.look.as_mut().reset(next);
        }
        if self.overdue { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Returns the time of the next check. Connections with responses to writes are checked more
    /// often, because others may soon need the bytes of unread ones.
    fn next_look(&self, now: Instant) -> Instant {
        let every = self.patience.look_every();
        now + if self.has_write_answers() { every.min(WRITE_UNREAD_MAX / 4) } else { every }
    }

    fn has_write_answers(&self) -> bool {
        self.peer.has_write_answers()
    }

    fn fault(&self, now: Instant) -> Option<&'static str> {
        let over = |since: Instant, max: Duration| now.duration_since(since) >= max;
        let is_used = self.peer.has_called() || self.peer.is_calling();
        if !is_used && over(self.accepted, self.patience.first_call_max) {
            return Some("no call within server.first_call_max");
        }
        if self.idle.is_some_and(|since| over(since, IDLE_MAX)) {
            return Some("idle during shutdown");
        }
        if self.budget.write_answers_are_short() {
            let blocked = self.blocked.filter(|_| self.has_write_answers());
            let unread = [blocked, self.peer.write_unread_since()].into_iter().flatten().min();
            if unread.is_some_and(|since| over(since, WRITE_UNREAD_MAX)) {
                return Some("unread responses to writes hold memory that others need");
            }
        }
        // A stop waits for clients that keep reading, however slowly.
        let unread = match self.closing {
            Some(_) => self.peer.unread_since(),
            None => self.peer.unmoved_since(),
        };
        let unread = [self.blocked, unread].into_iter().flatten().min();
        unread.filter(|since| over(*since, self.patience.unread_max)).map(|_| {
            "response not read within \
         server.unread_max"
        })
    }
}

/// How long a response to a write may remain unread once more than half of the bytes for such
/// responses are in use.
const WRITE_UNREAD_MAX: Duration = Duration::from_secs(1);

/// During a stop, a connection without a call is closed by its peer, which is asked to do so. A
/// peer that has vanished does not, so the connection is closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(1);

impl ConnectionTimeouts {
    /// Returns the timeouts. During a stop, `unread_max` is a tenth of the grace period if that is
    /// less.
    pub fn new(settings: &TransportSettings) -> Self {
        /// The grace period of a stop is divided by this number for clients that do not read.
        const PART_OF_GRACE: u32 = 10;
        const AT_STOP_MIN: Duration = Duration::from_millis(10);
        let TransportSettings { first_call_max, unread_max, shutdown_grace, .. } = *settings;
        let unread_max_at_stop = unread_max.min(shutdown_grace / PART_OF_GRACE).max(AT_STOP_MIN);
        Self { first_call_max, unread_max, unread_max_at_stop }
    }

    /// Shortens the timeout at a stop, which does not wait for clients that do not read.
    fn hurry(&mut self) {
        self.unread_max = self.unread_max_at_stop;
    }

    fn look_every(self) -> Duration {
        self.first_call_max.min(self.unread_max) / 4
    }
}

/// The open files reserved for the service itself: the segments of the log, the index, the read
/// models, the log files, and the connection to ImmuDB.
const OWN_FILES: u64 = 1000;

/// If the process may open only few files, the service reserves one in this many of them instead.
const OWN_FILES_PART: u64 = 2;

/// Raises the limit on open files as far as permitted. Returns how many connections leave enough
/// files for the service: at most `connections_max`.
pub fn raise_file_limit(connections_max: usize) -> usize {
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
            "open-file limit (ulimit -n) is too low for limits.connections_max; accepting fewer connections"
        );
    }
    room
}

/// Returns how many connections a limit on open files allows.
fn connections_within(connections_max: usize, open_files_max: u64) -> usize {
    let own = OWN_FILES.min(open_files_max / OWN_FILES_PART);
    let room = usize::try_from(open_files_max.saturating_sub(own)).unwrap_or(usize::MAX);
    connections_max.min(room).max(1)
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
            // The peer is still there.
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
        if !self.stream.is_buffered() {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        // HTTP/2 reads nothing while it waits for this, so the connection is checked here as well.
        self.look(cx)?;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.stream.is_buffered() {
            return Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        self.look(cx)?;
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note(shut)
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
