//! Determines the message format of a request.
//!
//! Also builds the responses to requests that are not gRPC, or whose compression is not accepted.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::body::Body;

use super::compression::{ACCEPTED, UnknownEncoding};
use crate::grpc::status;

/// The kind of a request, according to its headers.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestFormat {
    /// gRPC with messages in Protocol Buffers.
    Protobuf,
    /// gRPC with messages in another format.
    OtherGrpc,
    /// Any other content type, or a method other than POST.
    NotGrpc,
}

/// Returns the kind of a request.
pub fn request_format<B>(request: &Request<B>) -> RequestFormat {
    const TYPE: &[u8] = b"application/grpc";
    let content = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let Some(rest) = content.and_then(|content| content.strip_prefix(TYPE)) else {
        return RequestFormat::NotGrpc;
    };
    let format = rest.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    match format {
        _ if request.method() != Method::POST => RequestFormat::NotGrpc,
        b"" | b"+proto" => RequestFormat::Protobuf,
        [b'+', ..] => RequestFormat::OtherGrpc,
        _ => RequestFormat::NotGrpc,
    }
}

/// Returns the response to a request that is not gRPC, which has the HTTP status 415.
pub fn not_grpc() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

/// Returns the response to a request with an unknown encoding. It names the accepted ones.
pub fn not_accepted(UnknownEncoding(encoding): &UnknownEncoding) -> Response<Body> {
    let mut answer = status::other_encoding(encoding, ACCEPTED).into_http();
    answer.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_protobuf_is_read_as_protobuf() {
        let of = |content: &str| {
            let request = Request::builder().method("POST").header("content-type", content);
            request_format(&request.body(()).unwrap())
        };
        for content in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert_eq!(of(content), RequestFormat::Protobuf, "{content}");
        }
        for content in ["application/grpc+json", "application/grpc+thrift;x=y", "application/grpc+protobuf"] {
            assert_eq!(of(content), RequestFormat::OtherGrpc, "{content}");
        }
        for content in ["", "application/json", "application/grpcs", "application/grpc-web", "text/plain"] {
            assert_eq!(of(content), RequestFormat::NotGrpc, "{content}");
        }
    }
}
