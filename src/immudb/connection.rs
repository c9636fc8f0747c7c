//! A connection to an ImmuDB server, before the login.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

use super::{
    Error, ErrorKind, REQUEST_BYTES_MAX, SessionSettings,
    error::{FailedCall, chain},
    schema::immu_service_client::ImmuServiceClient,
    tls,
};

/// Deadlines detect a silent server; this only clears connections that are not used. HTTP/2 pings
/// are left out on purpose: ImmuDB answers them by closing the connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// How much of an answer may be in transit. The default of 64 KiB makes large pages slow.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

const OPERATION: &str = "connect";

/// Connects. With TLS, reads the files of the client first, and verifies the server.
pub(super) async fn connect(settings: &SessionSettings) -> Result<ImmuServiceClient<Channel>, Error> {
    let endpoint = endpoint(settings)?;
    // The endpoint's own timeout does not include the DNS lookup, so a second one covers both.
    let channel = timeout(settings.connect_timeout, endpoint.connect())
        .await
        .map_err(|_| FailedCall::timed_out(OPERATION, settings.connect_timeout))?
        .map_err(|error| FailedCall::from_transport(&error))?;
    Ok(ImmuServiceClient::new(channel)
        .max_encoding_message_size(REQUEST_BYTES_MAX)
        .max_decoding_message_size(settings.response_bytes_max))
}

fn endpoint(settings: &SessionSettings) -> Result<Endpoint, Error> {
    let host = if settings.address.contains(':') {
        format!("[{}]", settings.address)
    } else {
        settings.address.clone()
    };
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let unusable = |error: &tonic::transport::Error| {
        Error::configuration(OPERATION, format!("{host}: {}", chain(error)))
    };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{}", settings.port))
        .map_err(|error| unusable(&error))?
        .connect_timeout(settings.connect_timeout)
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    match &settings.tls {
        None => Ok(endpoint),
        Some(tls) => {
            endpoint.tls_config(tls::client(tls, settings.connect_timeout)?).map_err(|error| unusable(&error))
        }
    }
}

/// Returns the error of a login that the server has not answered. A server that expects TLS closes
/// a connection without it, and says nothing.
pub(super) async fn explained(failure: FailedCall, settings: &SessionSettings) -> Error {
    let error = Error::from(failure);
    if error.kind == ErrorKind::Unreachable && settings.tls.is_none() && expects_tls(settings).await {
        return Error::configuration(OPERATION, "the server expects TLS".to_owned());
    }
    error
}

async fn expects_tls(settings: &SessionSettings) -> bool {
    let answer = async {
        let mut connection = TcpStream::connect((settings.address.as_str(), settings.port)).await?;
        connection.write_all(&tls::client_hello()?).await?;
        connection.read_u8().await
    };
    matches!(timeout(settings.connect_timeout, answer).await, Ok(Ok(first)) if tls::is_tls(first))
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::net::TcpListener;

    use super::*;
    use crate::{immudb::tls::TlsSettings, secret::Secret};

    fn settings(port: u16, tls: Option<TlsSettings>) -> SessionSettings {
        SessionSettings {
            address: "127.0.0.1".to_owned(),
            port,
            tls,
            username: "immudb".to_owned(),
            password: Secret::new("immudb"),
            password_file: None,
            database: "aethyr".to_owned(),
            connect_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(60),
            response_bytes_max: 1024,
        }
    }

    /// Reads what a client sends first, answers with these bytes, and closes the connection, for
    /// each client.
    async fn server(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut first = [0; 4096];
                let _ = connection.read(&mut first).await;
                let _ = connection.write_all(answer).await;
                let _ = connection.shutdown().await;
            }
        });
        port
    }

    fn broken() -> FailedCall {
        FailedCall::from_status("OpenSession", &broken_status())
    }

    fn broken_status() -> tonic::Status {
        tonic::Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)))
    }

    #[tokio::test]
    async fn a_server_that_expects_tls_is_told_from_one_that_is_gone() {
        const ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 10];
        const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        let over_tls = explained(broken(), &settings(server(ALERT).await, None)).await;
        assert_eq!(
            (over_tls.kind, over_tls.to_string()),
            (ErrorKind::Configuration, "connect: the server expects TLS".to_owned())
        );
        for answer in [SETTINGS, &[]] {
            let error = explained(broken(), &settings(server(answer).await, None)).await;
            assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
        }
        let with_tls = settings(server(ALERT).await, Some(TlsSettings::default()));
        assert_eq!(explained(broken(), &with_tls).await.kind, ErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn a_server_without_tls_is_named_to_a_client_with_tls() {
        const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        let settings = settings(server(SETTINGS).await, Some(TlsSettings::default()));
        let error = connect(&settings).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
        assert!(error.to_string().starts_with("connect: the server does not use TLS"), "{error}");
    }

    #[tokio::test]
    async fn a_certificate_without_a_usable_key_is_a_matter_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client.pem");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let (certificate_file, key_file) = (Some(path.clone()), Some(path));
        let tls = TlsSettings { certificate_file, key_file, ..TlsSettings::default() };
        let error = connect(&settings(1, Some(tls))).await.unwrap_err();
        assert_eq!((error.kind, error.operation), (ErrorKind::Configuration, "connect"), "{error}");
    }
}
