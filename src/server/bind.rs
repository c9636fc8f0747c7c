//! Opens the sockets that the service listens on.
//!
//! The file of a unix socket that a killed service has left behind is replaced. That of a running
//! service is not, and neither is a file that is not a socket.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::{
    config::{ListenAddress, ListenAddresses},
    grpc::transport::listeners::{Listeners, SocketFile},
};

/// The mode of a unix socket: for the user and the group of the service.
const SOCKET_MODE: u32 = 0o660;
/// How long to wait for another process that opens a socket in the same directory.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("server.listen ({address}): {source}{}", hint(source.kind()))]
pub struct BindError {
    /// The address.
    pub address: ListenAddress,
    /// The error of the system.
    pub source: io::Error,
}

/// Opens all sockets, or none.
///
/// # Errors
/// Returns an error if an address cannot be listened on.
pub async fn bind(addresses: &ListenAddresses) -> Result<Listeners, BindError> {
    let mut listeners = Listeners::default();
    for address in &addresses.0 {
        let bound = match address {
            ListenAddress::Tcp(address) => {
                TcpListener::bind(address).await.map(|listener| listeners.add_tcp(listener))
            }
            ListenAddress::Unix(path) => {
                bind_unix(path).await.map(|(file, listener)| listeners.add_unix(file, listener))
            }
        };
        bound.map_err(|source| BindError { address: address.clone(), source })?;
    }
    Ok(listeners)
}

async fn bind_unix(path: &Path) -> io::Result<(SocketFile, UnixListener)> {
    // Otherwise, a second service could remove the socket that a first one has just created.
    let _lock = lock_folder(path).await;
    match fs::symlink_metadata(path).map(|found| found.file_type().is_socket()) {
        Ok(false) => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(true) => {
            if is_used(path).await? {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile::created(path.to_owned())?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok((file, listener))
}

/// Returns whether a process accepts connections on the socket.
async fn is_used(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path).await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(false),
            // Too many connections wait to be accepted.
            io::ErrorKind::WouldBlock => Ok(true),
            _ => Err(error),
        },
    }
}

/// Locks the directory of a file against other services. Returns `None` if it cannot be locked:
/// that must not prevent a start.
async fn lock_folder(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Returns what to say about an address that cannot be used.
fn hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "; another process (another event store?) is using this address",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        io::ErrorKind::PermissionDenied => "; this user is not allowed to use this address",
        io::ErrorKind::AlreadyExists => "; the file is not a socket",
        io::ErrorKind::NotFound => "; the directory of the socket must exist",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    fn unix(path: &Path) -> ListenAddresses {
        ListenAddresses(vec![ListenAddress::Unix(path.to_owned())])
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_a_used_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sock");
        // As after a kill: the socket exists, and nobody listens.
        drop(net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listeners = bind(&unix(&path)).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let used = bind(&unix(&path)).await.unwrap_err();
        assert_eq!(used.source.kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).await.unwrap();
        drop(listeners);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn no_other_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sock");
        fs::write(&path, "a file").unwrap();
        let file = bind(&unix(&path)).await.unwrap_err();
        assert_eq!(file.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        let missing = bind(&unix(&folder.path().join("missing/store.sock"))).await.unwrap_err();
        assert_eq!(missing.source.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn no_socket_remains_if_another_address_cannot_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sock");
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut addresses = unix(&path);
        addresses.0.push(ListenAddress::Tcp(taken.local_addr().unwrap()));
        let error = bind(&addresses).await.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn of_two_services_that_start_at_once_one_gets_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sock");
        for _ in 0..20 {
            drop(net::UnixListener::bind(&path).unwrap());
            let addresses = unix(&path);
            let (one, other) = tokio::join!(bind(&addresses), bind(&addresses));
            assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
            UnixStream::connect(&path).await.unwrap();
        }
    }
}
