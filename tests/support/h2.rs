//! gRPC calls made by hand over valid HTTP/2, with headers that a client library would not send and
//! flow-control windows that it would not choose.

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use tokio::net::TcpStream;
use tonic::Code;

/// The response to a call, read to the end.
#[derive(Debug)]
pub struct Answer {
    pub http: u16,
    pub status: Option<Code>,
    pub headers: http::HeaderMap,
}

/// Returns a gRPC message with its prefix.
pub fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

/// Opens a connection on which each stream can receive `window` bytes before it needs more window.
pub async fn connect(port: u16, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(async move { _ = connection.await });
    sender
}

/// Begins a call. Returns the response headers with the body still unread.
pub async fn begin(
    sender: &SendRequest<Bytes>,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<http::Response<RecvStream>, h2::Error> {
    let mut request = http::Request::post(format!("http://test{path}")).header("te", "trailers");
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut sender = sender.clone().ready().await?;
    let (answer, mut sending) = sender.send_request(request.body(()).unwrap(), false)?;
    // A server that rejects the call because of its headers does not read the rest.
    _ = sending.send_data(body.into(), true);
    answer.await
}

/// Returns the status of a response that has been read up to its trailers.
pub async fn status(answer: http::Response<RecvStream>) -> Option<Code> {
    let (head, mut body) = answer.into_parts();
    let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    let status = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
    status.map(|status| Code::from_bytes(status.as_bytes()))
}

/// Makes a call and reads the response to the end.
pub async fn call(port: u16, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let sender = connect(port, 1 << 20).await;
    let mut answer = begin(&sender, path, headers, body).await.unwrap();
    while let Some(Ok(piece)) = answer.body_mut().data().await {
        answer.body_mut().flow_control().release_capacity(piece.len()).unwrap();
    }
    let (http, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { http, status: status(answer).await, headers }
}
