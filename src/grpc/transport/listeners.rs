//! The sockets that the service accepts connections on.

use std::{
    fs::{self, Metadata},
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    task::{Context, Poll},
};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// The sockets that the service accepts connections on. They are closed when they are dropped.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Listener>);

/// A socket that the service accepts connections on.
#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    /// The file is declared first, so it is removed while the socket is still open.
    Unix(SocketFile, UnixListener),
}

/// An accepted connection, before anything of it was read.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listeners {
    /// Adds a listener of a TCP address.
    pub fn add_tcp(&mut self, listener: TcpListener) {
        self.0.push(Listener::Tcp(listener));
    }

    /// Adds a listener of a unix socket, whose file is removed together with it.
    pub fn add_unix(&mut self, file: SocketFile, listener: UnixListener) {
        self.0.push(Listener::Unix(file, listener));
    }

    /// Returns the TCP addresses.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(|listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        })
    }

    /// Returns the paths of the unix sockets.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|listener| match listener {
            Listener::Tcp(_) => None,
            Listener::Unix(file, _) => Some(file.path.as_path()),
        })
    }

    /// Accepts a connection of any listener. A listener that always has one does not keep the
    /// others waiting.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        for _ in 0..self.0.len() {
            self.0.rotate_left(1);
            let Some(listener) = self.0.first() else { break };
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        Self(vec![Listener::Tcp(listener)])
    }
}

impl Listener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, address)| Accepted::Tcp(stream, address))
            }
            Self::Unix(_, listener) => listener.poll_accept(cx).map_ok(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// The file of a unix socket. It is removed when the value is dropped, unless another process has
/// replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: FileId,
}

/// What distinguishes a file from all others that exist at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

impl SocketFile {
    /// Takes over the file at the path, which the caller has just created.
    ///
    /// # Errors
    /// Returns an error if there is no file.
    pub fn created(path: PathBuf) -> io::Result<Self> {
        let id = FileId::of(&fs::symlink_metadata(&path)?);
        Ok(Self { path, id })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| FileId::of(&found) == self.id) {
            // The next start replaces a file that cannot be removed.
            _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::Ipv4Addr};

    use super::*;

    #[test]
    fn a_socket_file_is_removed_unless_another_process_has_replaced_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("store.sock"), folder.path().join("other"));
        fs::write(&path, "").unwrap();
        drop(SocketFile::created(path.clone()).unwrap());
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        let file = SocketFile::created(path.clone()).unwrap();
        fs::write(&other, "the other one").unwrap();
        fs::rename(&other, &path).unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"the other one");
    }

    #[tokio::test]
    async fn no_listener_waits_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sock");
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let mut listeners = Listeners::from(tcp);
        let unix = UnixListener::bind(&path).unwrap();
        listeners.add_unix(SocketFile::created(path.clone()).unwrap(), unix);
        assert_eq!(listeners.addresses().collect::<Vec<_>>(), [address]);
        assert_eq!(listeners.paths().collect::<Vec<_>>(), [path.as_path()]);
        // Both have connections all the time.
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let _local = [UnixStream::connect(&path).await.unwrap(), UnixStream::connect(&path).await.unwrap()];
        let mut is_unix = Vec::new();
        for _ in 0..4 {
            let accepted = poll_fn(|cx| listeners.poll_accept(cx)).await.unwrap();
            is_unix.push(matches!(accepted, Accepted::Unix(_)));
        }
        assert_eq!(is_unix.iter().filter(|is_unix| **is_unix).count(), 2, "{is_unix:?}");
        drop(listeners);
        assert!(!path.exists());
    }
}
