//! Callers with a name: tokens, the file that gives them rights, and clients that send them.

use std::{fmt::Write, path::Path};

use aethyr_event_store::{
    access::Token,
    grpc::wire::{
        event_store_service_client::EventStoreServiceClient,
        world::{command_service_client::CommandServiceClient, world_service_client::WorldServiceClient},
    },
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::tls::replace;

/// The identities of a test, each with a token.
#[derive(Debug, Default)]
pub struct Identities {
    roles: String,
    lines: Vec<(String, String)>,
}

/// Sends a token with each call.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

pub type WithToken = InterceptedService<Channel, Bearer>;

impl Identities {
    /// Adds a line below `roles`, for example `arena: { may: [load], prefixes: [arena-] }`.
    #[must_use]
    pub fn role(mut self, line: &str) -> Self {
        writeln!(self.roles, "  {line}").unwrap();
        self
    }

    /// Adds an identity with a new token, and returns the token.
    pub fn add(&mut self, name: &str, role: &str) -> String {
        self.add_with(name, role, "")
    }

    /// Like [`Identities::add`], with more keys of the identity, for example `certificate: name`.
    pub fn add_with(&mut self, name: &str, role: &str, more: &str) -> String {
        let token = Token::generate().unwrap();
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let line = format!(
            "{name}: {{ role: {role}, tokens: [{{ id: {}, hash: \"{}\" }}]{more} }}",
            token.id(),
            token.hash()
        );
        self.lines.push((name.to_owned(), line));
        token.text().to_owned()
    }

    /// Adds a line below `identities` as it is.
    pub fn add_line(&mut self, name: &str, line: &str) {
        self.lines.push((name.to_owned(), line.to_owned()));
    }

    pub fn remove(&mut self, name: &str) {
        self.lines.retain(|(line, _)| line != name);
    }

    pub fn yaml(&self) -> String {
        let mut yaml = String::new();
        if !self.roles.is_empty() {
            write!(yaml, "roles:\n{}", self.roles).unwrap();
        }
        yaml.push_str(if self.lines.is_empty() { "identities: {}\n" } else { "identities:\n" });
        for (_, line) in &self.lines {
            writeln!(yaml, "  {line}").unwrap();
        }
        yaml
    }

    /// Replaces the file as a whole.
    pub fn write(&self, path: &Path) {
        replace(path, &self.yaml());
    }
}

impl Bearer {
    pub fn new(token: &str) -> Self {
        Self(Some(format!("Bearer {token}").parse().unwrap()))
    }

    pub fn nobody() -> Self {
        Self(None)
    }

    pub fn events(&self, channel: Channel) -> EventStoreServiceClient<WithToken> {
        EventStoreServiceClient::with_interceptor(channel, self.clone())
    }

    pub fn commands(&self, channel: Channel) -> CommandServiceClient<WithToken> {
        CommandServiceClient::with_interceptor(channel, self.clone())
    }

    pub fn world(&self, channel: Channel) -> WorldServiceClient<WithToken> {
        WorldServiceClient::with_interceptor(channel, self.clone())
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}
