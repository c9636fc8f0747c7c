//! A minimal gRPC client: it sends requests that are already encoded, and does not decode
//! responses.
//!
//! Every system with a gRPC API uses this client, with one connection per 16 callers.

mod socket;
pub mod wire;

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Method, Request, Uri, header::HeaderValue};
use percent_encoding::percent_decode;
use socket::Socket;
use tokio::task::spawn_local;

use crate::outcome::Outcome;

const PREFIX_BYTES: usize = 5;
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The path of a method, as sent in requests.
#[derive(Clone, Debug)]
pub struct Call(Uri);

impl Call {
    /// Creates it from a path such as `/package.Service/Method`.
    pub fn new(path: &'static str) -> Self {
        let uri = Uri::builder().scheme("http").authority("127.0.0.1").path_and_query(path);
        Self(uri.build().expect("a path"))
    }
}

/// Encodes a message with its length prefix.
pub fn frame(fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.resize(PREFIX_BYTES, 0);
    fill(&mut out);
    let length = (out.len() - PREFIX_BYTES) as u32;
    out[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    out.into()
}

/// An error status.
#[derive(Debug)]
pub struct Refusal {
    pub code: u32,
    pub message: String,
}

/// A connection. Its clones share it.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Bytes>,
}

impl Connection {
    pub async fn open(port: u16) -> Outcome<Self> {
        let socket = Socket::connect(port).await.map_err(|e| e.to_string())?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(socket.clone())
            .await
            .map_err(|e| e.to_string())?;
        // If the connection breaks, its calls fail.
        spawn_local(socket.drive(async move { _ = connection.await }));
        Ok(Self { requests })
    }

    /// Opens the connections for `callers` callers. Returns one entry per caller; callers share
    /// connections.
    pub async fn for_callers(port: u16, callers: usize) -> Outcome<Vec<Self>> {
        const SHARING: usize = 16;
        let mut all = Vec::new();
        for _ in 0..callers.div_ceil(SHARING) {
            all.push(Self::open(port).await?);
        }
        Ok((0..callers).map(|caller| all[caller / SHARING].clone()).collect())
    }

    /// Makes a unary call.
    pub async fn ask(&mut self, call: &Call, message: Bytes) -> Outcome<Bytes> {
        let mut answer = self.stream(call, message).await?;
        match answer.next().await? {
            Some(message) => {
                answer.end().await?;
                Ok(message)
            }
            None => Err("no message in the response".to_owned()),
        }
    }

    /// Makes a call with a stream of responses.
    pub async fn stream(&mut self, call: &Call, message: Bytes) -> Outcome<Messages> {
        poll_fn(|context| self.requests.poll_ready(context)).await.map_err(|e| e.to_string())?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = call.0.clone();
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        let (response, mut body) = self.requests.send_request(request, false).map_err(|e| e.to_string())?;
        body.send_data(message, true).map_err(|e| e.to_string())?;
        let response = response.await.map_err(|e| e.to_string())?;
        let refusal = refusal(response.headers());
        if let Some(refusal) = refusal {
            return Err(format!("status {}: {}", refusal.code, refusal.message));
        }
        Ok(Messages { body: response.into_body(), buffer: BytesMut::new() })
    }
}

/// The messages of a response.
pub struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    /// Returns the next message, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Outcome<Option<Bytes>> {
        loop {
            if let Some(message) = self.whole() {
                return Ok(Some(message));
            }
            let Some(data) = self.body.data().await else {
                self.trailers().await?;
                return Ok(None);
            };
            let data = data.map_err(|e| e.to_string())?;
            self.body.flow_control().release_capacity(data.len()).map_err(|e| e.to_string())?;
            if self.buffer.is_empty() {
                // Usually, a piece is one complete message, which need not be copied.
                if let Some(message) = alone(&data) {
                    return Ok(Some(message));
                }
            }
            self.buffer.extend_from_slice(&data);
        }
    }

    async fn end(mut self) -> Outcome<()> {
        match self.next().await? {
            None => Ok(()),
            Some(_) => Err("more than one message in the response".to_owned()),
        }
    }

    fn whole(&mut self) -> Option<Bytes> {
        let length = length(&self.buffer)?;
        if self.buffer.len() < PREFIX_BYTES + length {
            return None;
        }
        Some(self.buffer.split_to(PREFIX_BYTES + length).freeze().slice(PREFIX_BYTES..))
    }

    async fn trailers(&mut self) -> Outcome<()> {
        let trailers = self.body.trailers().await.map_err(|e| e.to_string())?;
        let trailers = trailers.ok_or("a response without status")?;
        match refusal(&trailers) {
            None => Ok(()),
            Some(refusal) => Err(format!("status {}: {}", refusal.code, refusal.message)),
        }
    }
}

fn alone(data: &Bytes) -> Option<Bytes> {
    (data.len() == PREFIX_BYTES + length(data)?).then(|| data.slice(PREFIX_BYTES..))
}

fn length(buffer: &[u8]) -> Option<usize> {
    let prefix = buffer.get(1..PREFIX_BYTES)?;
    Some(u32::from_be_bytes(prefix.try_into().ok()?) as usize)
}

fn refusal(headers: &HeaderMap) -> Option<Refusal> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().unwrap_or(2);
    let message = headers.get("grpc-message").map(|message| percent_decode(message.as_bytes()));
    let message = message.map(|message| message.decode_utf8_lossy().into_owned()).unwrap_or_default();
    (code != 0).then_some(Refusal { code, message })
}
