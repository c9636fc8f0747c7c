//! A gRPC client of the service for its own command line.
//!
//! Requests and responses are JSON in the protobuf mapping. Responses use the field names of the
//! protobuf files, and 64-bit integers are numbers.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use tonic_types::StatusExt;

use super::{status, wire};
use crate::secret::Secret;

mod endpoint;

pub use endpoint::{ClientCertificate, ClientSettings, NoCertificate, ServiceEndpoint, Trust};

const AUTHORIZATION: &str = "authorization";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection: the address is invalid, or no service is listening at it.
    #[error("cannot connect to {address}: {}; is the event store running there?", innermost(source))]
    Unreachable {
        /// The address, with its port.
        address: String,
        /// The error of the transport.
        source: tonic::transport::Error,
    },
    /// There is no connection: TLS failed, for example because the server is not trusted.
    #[error("cannot connect to {address} with TLS: {}", endpoint::described(source))]
    Tls {
        /// The address, with its port.
        address: String,
        /// What failed.
        source: rustls::Error,
    },
    /// The API has no such method.
    #[error("{method}: no such call")]
    NoSuchCall {
        /// The method that was requested.
        method: String,
    },
    /// The request does not fit its message type or cannot be sent, or a response cannot be
    /// converted.
    #[error(transparent)]
    Request(Box<dyn std::error::Error + Send + Sync>),
    /// The call ended with an error status, usually one sent by the service.
    #[error("{message}")]
    Refused {
        /// The status code.
        code: Code,
        /// The reason in the details of the status. Empty if there is none.
        reason: String,
        /// The message of the status.
        message: String,
    },
}

impl ClientError {
    /// Returns the reason in the details of the error, or an empty string.
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused { reason, .. } => reason,
            Self::Unreachable { .. } | Self::Tls { .. } | Self::NoSuchCall { .. } | Self::Request(_) => "",
        }
    }

    /// Returns whether the service does not serve the call, for example because the configuration
    /// disables it.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == Code::Unimplemented)
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        Self::Refused { code: status.code(), reason, message: status.message().to_owned() }
    }
}

/// Returns the innermost source of an error. A transport error itself does not say what failed.
fn innermost<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |&error| error.source()).last().unwrap_or(error)
}

/// A connection to the service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JsonClient {
    channel: Channel,
    endpoint: ServiceEndpoint,
    /// Sent with each call.
    authorization: Option<MetadataValue<Ascii>>,
    pool: DescriptorPool,
    zeros: Zeros,
}

/// Whether responses include fields that are 0, false or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zeros {
    LeftOut,
    Shown,
}

impl JsonClient {
    /// Connects to the service without TLS and without credentials.
    ///
    /// # Errors
    /// Returns an error if no service is listening at the address.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        let endpoint = ServiceEndpoint::Cleartext { address: address.to_owned() };
        Self::connect_with(&ClientSettings { endpoint, token: None }).await
    }

    /// Connects to the service.
    ///
    /// # Errors
    /// Returns an error if no service is listening there, or if it is not trusted.
    pub async fn connect_with(settings: &ClientSettings) -> Result<Self, ClientError> {
        let authorization = settings.token.as_ref().map(bearer).transpose()?;
        let channel = settings.endpoint.connect().await?;
        let pool =
            DescriptorPool::decode(wire::DESCRIPTORS).map_err(|error| ClientError::Request(error.into()))?;
        let endpoint = settings.endpoint.clone();
        Ok(Self { channel, endpoint, authorization, pool, zeros: Zeros::LeftOut })
    }

    /// Includes every field in responses, even one that is 0, false or empty.
    #[must_use]
    pub fn with_zeros(self) -> Self {
        Self { zeros: Zeros::Shown, ..self }
    }

    /// Calls a method that has one response. `method` is the full name of the service, a slash, and
    /// the name of the method.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call(&self, method: &str, request: &Value) -> Result<Value, ClientError> {
        let mut answers = self.stream(method, request).await?;
        let answer = answers.next().await?;
        Ok(answer.unwrap_or_default())
    }

    /// Calls a method, and returns its responses as a stream.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stream(&self, method: &str, request: &Value) -> Result<Answers, ClientError> {
        let missing = || ClientError::NoSuchCall { method: method.to_owned() };
        let (service, call) = method.split_once('/').ok_or_else(missing)?;
        let service = self.pool.get_service_by_name(service).ok_or_else(missing)?;
        let call = service.methods().find(|found| found.name() == call).ok_or_else(missing)?;
        let request = DynamicMessage::deserialize(call.input(), request)
            .map_err(|error| ClientError::Request(error.into()))?;
        let path = format!("/{method}").parse().map_err(|_| missing())?;
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let ready = grpc.ready().await;
        ready.map_err(|error| ClientError::Request(error.into()))?;
        let codec = JsonCodec { answer: call.output() };
        let mut request = Request::new(request);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let answers = grpc.server_streaming(request, path, codec).await;
        let answers = answers.map_err(|status| self.endpoint.explained(status))?;
        Ok(Answers { messages: answers.into_inner(), zeros: self.zeros })
    }
}

/// Returns the credentials for a token. Debug output does not show them, and they are not put into
/// the table of the header compression.
fn bearer(token: &Secret) -> Result<MetadataValue<Ascii>, ClientError> {
    let credentials = format!("Bearer {}", token.expose()).parse::<MetadataValue<Ascii>>();
    let mut credentials = credentials.map_err(|error| ClientError::Request(error.into()))?;
    credentials.set_sensitive(true);
    Ok(credentials)
}

/// The responses of one call.
#[derive(Debug)]
pub struct Answers {
    messages: Streaming<DynamicMessage>,
    zeros: Zeros,
}

impl Answers {
    /// Returns the next response, or `None` at the end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Value>, ClientError> {
        let Some(message) = self.messages.message().await? else { return Ok(None) };
        let options = SerializeOptions::new()
            .use_proto_field_name(true)
            .stringify_64_bit_integers(false)
            .skip_default_fields(self.zeros == Zeros::LeftOut);
        let value = message.serialize_with_options(serde_json::value::Serializer, &options);
        value.map(whole).map(Some).map_err(|error| ClientError::Request(error.into()))
    }
}

/// Turns whole numbers into integers: a `google.protobuf.Value` has only doubles.
fn whole(value: Value) -> Value {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => match number.as_f64().filter(|number| number.fract() == 0.0) {
            #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough")]
            Some(double) if number.is_f64() && double.abs() < WHOLE_MAX => (double as i64).into(),
            _ => Value::Number(number),
        },
        Value::Array(values) => values.into_iter().map(whole).collect(),
        Value::Object(members) => members.into_iter().map(|(key, value)| (key, whole(value))).collect(),
        other => other,
    }
}

/// A codec for messages whose types are known only at run time.
#[derive(Debug)]
struct JsonCodec {
    answer: MessageDescriptor,
}

impl Codec for JsonCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Plain;
    type Decoder = Typed;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Typed {
        Typed(self.answer.clone())
    }
}

#[derive(Debug)]
struct Plain;

impl Encoder for Plain {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|_| status::not_coded("cannot encode the request"))
    }
}

#[derive(Debug)]
struct Typed(MessageDescriptor);

impl Decoder for Typed {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let decoded = DynamicMessage::decode(self.0.clone(), buffer);
        decoded.map(Some).map_err(|_| status::not_coded("cannot decode the response"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_sensitive_and_no_error_shows_them() {
        let credentials = bearer(&Secret::new("aes1_secret")).unwrap();
        assert_eq!(credentials.to_str().unwrap(), "Bearer aes1_secret");
        assert!(credentials.is_sensitive() && !format!("{credentials:?}").contains("secret"));
        let error = bearer(&Secret::new("secret\n")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}
