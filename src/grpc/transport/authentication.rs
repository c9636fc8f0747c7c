//! Determines who makes a call, and whether it may, from the headers and the connection.
//!
//! A call is refused here before its body is read, and before it counts against any limit except
//! those of its connection. What a request contains is checked after decoding, in `authorization`.
//! The rights of a caller are looked up for each call, so a change applies to the next call of an
//! open connection.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use http::{HeaderMap, header::AUTHORIZATION};
use tonic::{Code, Status};
use tracing::warn;

use super::{
    addresses::{AddressLimit, AddressPlace, TooMany},
    client::{Client, ClientRegistry},
    failed_attempts::{AnswerTime, Delay, FailedAttempts},
    peer::Peer,
};
use crate::{
    access::{AccessControl, Denied, Offer, Policy, Principal, Shares, token},
    access_log::{AccessLog, CallName, Entry, EntryKind},
    grpc::{
        methods::{self, Method, NeededRights},
        status,
    },
};

mod principal;
mod revocation;

pub use principal::CallPrincipal;
use principal::{KnownCall, logged_caller};
pub(super) use revocation::Revocable;

/// gRPC decodes values of this field as Base64, and other programs do not, so its meaning would be
/// ambiguous.
const BINARY_FIELD: &str = "authorization-bin";
const SCHEME: &str = "Bearer";

/// Determines the callers of all services on the port.
#[derive(Debug)]
pub(super) struct Authentication {
    control: AccessControl,
    clients: ClientRegistry,
    log: AccessLog,
    failed: FailedAttempts,
    /// The calls in progress that need no credentials.
    open_calls: AddressLimit,
    /// The ids of the tokens for which the log has a warning.
    sent_in_clear: Mutex<BTreeSet<Arc<str>>>,
}

/// Who makes a call, and whose share of the limits the call uses.
#[derive(Debug)]
pub(super) struct Identified {
    pub principal: CallPrincipal,
    pub client: Client,
    /// The place of a call that needs no credentials, among those of its address.
    pub place: Option<AddressPlace>,
}

/// The calls without credentials that an address may have in progress. They watch the health of the
/// service, perhaps on a connection each.
const OPEN_CALLS_PER_ADDRESS_MAX: usize = 1000;

/// A call that is refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub status: Status,
    /// How long the answer waits.
    pub delay: Option<Delay>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status, delay: None }
    }
}

impl Identified {
    /// Returns the caller of a call while access control is off: each connection is a client.
    pub(super) fn by_connection(peer: &Peer) -> Self {
        Self { principal: CallPrincipal::default(), client: peer.client().clone(), place: None }
    }
}

impl Authentication {
    pub(super) fn new(control: AccessControl, clients: ClientRegistry, log: AccessLog) -> Self {
        Self {
            control,
            clients,
            log,
            failed: FailedAttempts::new(),
            open_calls: AddressLimit::new(OPEN_CALLS_PER_ADDRESS_MAX),
            sent_in_clear: Mutex::default(),
        }
    }

    /// Determines the caller of a call.
    ///
    /// # Errors
    /// Returns an error if the caller is not known, or does not have the right to make the call.
    pub(super) fn authenticate<B>(
        &self,
        request: &http::Request<B>,
        peer: &Peer,
    ) -> Result<Identified, Refused> {
        let path = request.uri().path();
        let method = methods::find(path);
        let needs = methods::needed_rights(method);
        if needs == NeededRights::None {
            let place = self.place_of_open_call(path, peer)?;
            let (principal, client) = (CallPrincipal::nobody(), peer.client().clone());
            return Ok(Identified { principal, client, place });
        }
        let policy = self.control.policy();
        let principal = match self.identify(&policy, request.headers(), peer) {
            Ok(principal) => principal,
            Err(unknown) => return Err(self.refuse_unknown(&unknown, peer, call_name(method, path))),
        };
        // If nobody has a name, each connection is a client, as while access control is off. The
        // limits of a role hold nevertheless.
        let shares = &principal.identity.shares;
        let is_limited = *shares != Shares { share: shares.share, ..Shares::default() };
        let client = if policy.names_anybody() || is_limited {
            self.clients.of(&principal.identity)
        } else {
            peer.client().clone()
        };
        let missing = match needs {
            NeededRights::Any(rights) if !principal.identity.rights.has_any(rights) => rights.first(),
            NeededRights::Any(_) | NeededRights::Identity | NeededRights::None => None,
        };
        let call = KnownCall::new(principal, peer.clone(), call_name(method, path), self.log.clone());
        let principal = CallPrincipal::known(match method {
            Some(method) => call.of_kind(kind(method), is_notable(method)),
            None => call,
        });
        if let Some(right) = missing {
            let status = status::not_allowed(*right);
            principal.note_status(Some(&status));
            return Err(status.into());
        }
        if let Err(reached) = peer.belong_to(&client) {
            let status = status::of_limit(reached);
            principal.note_status(Some(&status));
            return Err(status.into());
        }
        Ok(Identified { principal, client, place: None })
    }

    /// Counts a call that needs no credentials. A single check of the health is not counted: a
    /// program that cannot get one restarts the service.
    fn place_of_open_call(&self, path: &str, peer: &Peer) -> Result<Option<AddressPlace>, Status> {
        if methods::is_health_check(path) {
            return Ok(None);
        }
        let address = peer.facts().address.map(|address| address.ip());
        let place = self.open_calls.acquire_any(address);
        place.map(Some).map_err(|TooMany| status::too_many_open_calls(self.open_calls.max()))
    }

    fn identify<'h>(
        &self,
        policy: &Policy,
        headers: &'h HeaderMap,
        peer: &Peer,
    ) -> Result<Principal, Unknown<'h>> {
        let token = offered_token(headers).map_err(|denied| Unknown { denied, token: None })?;
        let facts = peer.facts();
        let offer = Offer {
            token,
            certificate: facts.certificate.as_deref(),
            uid: facts.uid,
            is_protected: facts.is_protected,
        };
        match policy.identify(offer, SystemTime::now()) {
            Ok((identity, credential)) => Ok(Principal::new(identity, credential, self.control.clone())),
            // A certificate without a name is one that belongs to no identity.
            Err(Denied::NoCredentials) if facts.has_certificate => {
                Err(Unknown { denied: Denied::UnknownCertificate, token })
            }
            Err(denied) => Err(Unknown { denied, token }),
        }
    }

    /// Refuses a call whose caller is not known.
    fn refuse_unknown(&self, unknown: &Unknown<'_>, peer: &Peer, call: CallName) -> Refused {
        let status = match unknown.denied {
            Denied::NoCredentials => status::no_credentials(),
            _ => status::bad_credentials(),
        };
        let mut caller = logged_caller(None, peer);
        caller.token = unknown.token.and_then(|token| token::parse(token).ok()).map(|parts| parts.id.into());
        if unknown.denied == Denied::SentInClear
            && let Some(id) = &caller.token
        {
            self.warn_of_token_in_clear(id);
        }
        let mut entry =
            Entry::new(EntryKind::Refusal, caller, call, status::code_name(Code::Unauthenticated));
        entry.reason = status::refused_reason(&status).map(|(reason, _)| reason.into());
        entry.cause = Some(unknown.denied.to_string().into());
        self.log.write(entry);
        Refused { status, delay: self.delay(unknown.denied, peer) }
    }

    /// Counts a wrong token, and returns how long the answer waits.
    fn delay(&self, denied: Denied, peer: &Peer) -> Option<Delay> {
        match denied {
            Denied::NoCredentials | Denied::UnknownCertificate | Denied::UnknownUser => return None,
            Denied::Malformed
            | Denied::WrongCheck
            | Denied::Unknown
            | Denied::NotYetValid
            | Denied::Expired
            | Denied::SentInClear => {}
        }
        match self.failed.record(peer.facts().address.map(|address| address.ip())) {
            AnswerTime::AtOnce => None,
            AnswerTime::Later(delay) => Some(delay),
            AnswerTime::ThenClose => {
                // A connection of known callers may be that of a proxy, with calls of others.
                if !peer.has_called() {
                    peer.close();
                }
                None
            }
        }
    }

    /// Warns once of each token that others may have read on its way.
    fn warn_of_token_in_clear(&self, id: &Arc<str>) {
        const IDS_MAX: usize = 1000;
        let is_new = {
            let mut ids = self.sent_in_clear.lock().unwrap_or_else(PoisonError::into_inner);
            ids.len() < IDS_MAX && ids.insert(id.clone())
        };
        if is_new {
            warn!(token = %id, "a token was sent over an unencrypted connection; replace it, and use TLS");
        }
    }
}

/// A caller that is not known. `token` is what it has sent.
struct Unknown<'h> {
    denied: Denied,
    token: Option<&'h str>,
}

/// Returns the token in the headers of a call, or `None` if there are no credentials.
///
/// There may be one field, with the scheme `Bearer` in any case (RFC 7235, section 2.1) and one
/// token (RFC 6750, section 2.1). Anything else is an error and never treated as no credentials:
/// programs on the way might understand it differently.
///
/// # Errors
/// Returns an error if the field is not of this form, or if there are several.
pub(in crate::grpc) fn offered_token(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    if headers.contains_key(BINARY_FIELD) {
        return Err(Denied::Malformed);
    }
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Denied::Malformed);
    }
    let text = field.to_str().map_err(|_| Denied::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(Denied::Malformed)?;
    let token = token.trim_start_matches(' ');
    let is_token = !token.is_empty() && token.bytes().all(is_of_token);
    if scheme.eq_ignore_ascii_case(SCHEME) && is_token { Ok(Some(token)) } else { Err(Denied::Malformed) }
}

/// Returns whether a token may contain a byte: `b64token` of RFC 6750.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

fn call_name(method: Option<&'static Method>, path: &str) -> CallName {
    method.map_or_else(|| CallName::of_path(path), |method| CallName::Known(method.service, method.name))
}

fn kind(method: &'static Method) -> EntryKind {
    if method.is_write() { EntryKind::Write } else { EntryKind::Read }
}

/// Returns whether a call is logged although it is allowed, whatever the configuration says.
fn is_notable(method: &Method) -> bool {
    match method.needs {
        NeededRights::Any(rights) => rights.iter().copied().all(principal::is_notable),
        NeededRights::Identity | NeededRights::None => false,
    }
}

#[cfg(test)]
mod tests;
