//! A witness as a service over HTTP. Decides nothing itself.
//!
//! It is reachable by anybody, so everything has a limit: connections, their time, and the length
//! of a request. For TLS, a proxy is put in front of it.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinError,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};

use super::{
    body::{self, BodyError},
    cosigner::{Cosigner, Refusal},
    cosigning_key::CosigningKey,
    request::BODY_BYTES_MAX,
    state::{StateError, StateFile},
};
use crate::{
    proof::VerifierKey,
    refusals::{self, Severity},
};

/// The maximum number of connections. Further ones wait until another one is closed.
const CONNECTIONS_MAX: usize = 256;
/// The maximum time for the headers of a request, and between two requests.
const HEADERS_READ_MAX: Duration = Duration::from_secs(30);
const BODY_READ_MAX: Duration = Duration::from_secs(10);
/// After this time, a connection is closed when its request has been answered.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// The maximum time for the last request of a connection.
const CLOSING_MAX: Duration = Duration::from_secs(15);
/// The maximum length of the headers of a request, in bytes.
const BUFFER_BYTES_MAX: usize = 16 << 10;
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const LOG_EVERY: Duration = Duration::from_secs(1);

const ADD_CHECKPOINT: &str = "/add-checkpoint";
const TEXT: &str = "text/plain; charset=utf-8";
const SIZE: &str = "text/x.tlog.size";

/// What a witness needs.
#[derive(Debug)]
pub struct WitnessServerSettings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The file of the state. Its directory is created if needed.
    pub state: PathBuf,
    /// The keys of the logs. The name of a key is the origin of its log.
    pub logs: Vec<VerifierKey>,
    /// The key that signs.
    pub key: CosigningKey,
}

/// Why a witness cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The address cannot be listened on.
    #[error("{listen}: {source}")]
    NotBound {
        /// The address.
        listen: SocketAddr,
        /// What failed.
        source: io::Error,
    },
}

/// Runs a witness until `shutdown` resolves and the last request has been answered. The process may
/// be killed at any moment: what it has signed is durable.
///
/// # Errors
/// Returns an error if the state cannot be used, or if the address cannot be listened on.
pub async fn serve(
    settings: WitnessServerSettings,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let WitnessServerSettings { listen, state, logs, key } = settings;
    let state = StateFile::open(&state)?;
    let listener =
        TcpListener::bind(listen).await.map_err(|source| ServeError::NotBound { listen, source })?;
    info!(verifier_key = %key.verifier(), logs = logs.len(), "witness started");
    let cosigner = Arc::new(Cosigner::new(logs, key, state));
    info!(address = ?listener.local_addr().ok(), "listening");

    let (closing, connections) = (CancellationToken::new(), TaskTracker::new());
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut log_due = tokio::time::interval(LOG_EVERY);
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            _ = log_due.tick() => refusals::log_due(),
            (permit, accepted) = accept => match accepted {
                Ok((stream, _)) => {
                    let served = connection(stream, cosigner.clone(), closing.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    refusals::failed("cannot accept connections", &error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    closing.cancel();
    connections.close();
    connections.wait().await;
    info!("stopped");
    Ok(())
}

async fn connection(stream: TcpStream, cosigner: Arc<Cosigner>, closing: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let cosigner = cosigner.clone();
        async move { Ok::<_, Infallible>(answer(cosigner, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_READ_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                debug!(%error, "connection failed");
            }
            return;
        }
        () = closing.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    if tokio::time::timeout(CLOSING_MAX, connection).await.is_err() {
        debug!("connection closed during a request");
    }
}

async fn answer(cosigner: Arc<Cosigner>, request: Request<Incoming>) -> Response<String> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path == ADD_CHECKPOINT {
        return match head.method {
            Method::POST => add_checkpoint(cosigner, body).await,
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "the method is not POST"),
        };
    }
    let origin_hash = path.strip_prefix('/').and_then(|path| path.strip_suffix("/checkpoint"));
    match origin_hash {
        Some(origin_hash) if head.method == Method::GET => newest(cosigner, origin_hash.to_owned()).await,
        _ => text(StatusCode::NOT_FOUND, "there is no such path"),
    }
}

async fn add_checkpoint(cosigner: Arc<Cosigner>, body: Incoming) -> Response<String> {
    let body = match tokio::time::timeout(BODY_READ_MAX, body::read(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(BodyError::TooLong)) => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the request is longer than the limit");
        }
        Ok(Err(BodyError::Incomplete(_))) => {
            return text(StatusCode::BAD_REQUEST, "the request is incomplete");
        }
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the request was not sent in time"),
    };
    // Not abandoned if the client disconnects: the state and its file change together.
    let cosigned = tokio::task::spawn_blocking(move || cosigner.add_checkpoint(&body, seconds_since_1970()));
    match cosigned.await {
        Ok(Ok(line)) => response(StatusCode::OK, TEXT, line),
        Ok(Err(refusal)) => refused(&refusal),
        Err(error) => failed(&error),
    }
}

async fn newest(cosigner: Arc<Cosigner>, origin_hash: String) -> Response<String> {
    // Waits while another checkpoint is written.
    match tokio::task::spawn_blocking(move || cosigner.newest(&origin_hash)).await {
        Ok(Some(note)) => response(StatusCode::OK, TEXT, note),
        Ok(None) => text(StatusCode::NOT_FOUND, "no checkpoint of this log was cosigned"),
        Err(error) => failed(&error),
    }
}

/// Says why a checkpoint is not cosigned: to the client, and in the log.
fn refused(refusal: &Refusal) -> Response<String> {
    let (status, reason) = match refusal {
        // How a client learns the size.
        Refusal::OtherSize { size } => return response(StatusCode::CONFLICT, SIZE, format!("{size}\n")),
        Refusal::State(error) => {
            refusals::failed("the witness cannot store its state", error);
            return text(StatusCode::INTERNAL_SERVER_ERROR, &refusal.to_string());
        }
        Refusal::Clock => (StatusCode::INTERNAL_SERVER_ERROR, "CLOCK"),
        Refusal::Request(_) | Refusal::Checkpoint(_) | Refusal::Smaller { .. } => {
            (StatusCode::BAD_REQUEST, "MALFORMED_CHECKPOINT")
        }
        Refusal::Signature(_) | Refusal::Lines(_) => (StatusCode::FORBIDDEN, "UNSIGNED_CHECKPOINT"),
        Refusal::UnknownLog { .. } => (StatusCode::NOT_FOUND, "UNKNOWN_LOG"),
        Refusal::Inconsistent { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "INCONSISTENT_CHECKPOINT"),
    };
    let message = refusal.to_string();
    refusals::refused(reason, Severity::Limit, &message);
    text(status, &message)
}

/// Answers a request whose work has panicked.
fn failed(error: &JoinError) -> Response<String> {
    refusals::failed("a request to the witness failed", error);
    text(StatusCode::INTERNAL_SERVER_ERROR, "the request failed")
}

fn text(status: StatusCode, message: &str) -> Response<String> {
    response(status, TEXT, format!("{message}\n"))
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Returns the time of a cosignature, or 0 if the clock is wrong.
fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
