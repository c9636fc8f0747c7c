//! Accepting connections, up to a bound. One beyond it is closed at once: the caller sees UNAVAILABLE and
//! comes back, instead of hanging in a queue that nobody looks at.

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
};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::warn;

/// A connection that counts until it is closed.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

/// Raises the bound on open files, as far as it may be, so that it leaves room for `connections_max`.
pub fn make_room(connections_max: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// The log, the index and the connection with ImmuDB.
    const OWN: u64 = 1000;
    let limit = getrlimit(Resource::Nofile);
    let wanted = (connections_max as u64).saturating_add(OWN);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    if raised.is_err() || current < wanted {
        warn!(open_files_max = current, wanted, "limits.connections_max is more than this process may open");
    }
}

/// The connections of `listener`, at most `max` at a time.
pub fn incoming(listener: TcpListener, max: usize) -> impl Stream<Item = io::Result<Connection>> {
    const PAUSE: Duration = Duration::from_millis(100);
    let places = Arc::new(Semaphore::new(max));
    stream::unfold((listener, places), |(listener, places)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Too many open files, or a caller that is gone: neither gets better at once.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = places.clone().try_acquire_owned() else {
                warn!("limits.connections_max is reached; a connection was closed");
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                warn!(%error, "a connection is gone already");
                continue;
            }
            return Some((Ok(Connection { stream, _permit: permit }), (listener, places)));
        }
    })
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
