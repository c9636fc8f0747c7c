//! The caller of one call, and what the access log says about the call.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tonic::{Code, Status};

use crate::{
    access::{AccessControl, Credential, Identity, Policy, Principal, Right, Rights, Scope, Shares},
    access_log::{AccessLog, CallName, Entry, EntryKind, LoggedCaller},
    grpc::{status, transport::peer::Peer},
};

static UNRESTRICTED: LazyLock<Principal> = LazyLock::new(Principal::unrestricted);
static NOBODY: LazyLock<Principal> = LazyLock::new(|| {
    let identity = Identity {
        name: "".into(),
        role: "".into(),
        rights: Rights::NONE,
        scope: Scope::default(),
        actors: None,
        event_types: None,
        shares: Shares::default(),
    };
    Principal::new(Arc::new(identity), Credential::Anonymous, AccessControl::fixed(Policy::off()))
});

/// The caller of a call, as a [`Principal`]. Clones belong to the same call. While access control
/// is off, it is the unrestricted principal and costs nothing.
#[derive(Clone, Default)]
pub struct CallPrincipal(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    Unrestricted,
    /// Nobody was asked, because the call is open to everybody.
    Nobody,
    Known(Arc<KnownCall>),
}

/// A call of a known caller.
pub(super) struct KnownCall {
    principal: Principal,
    peer: Peer,
    call: CallName,
    kind: EntryKind,
    log: AccessLog,
    /// Whether the call is logged whatever the configuration says.
    is_notable: AtomicBool,
    is_logged: AtomicBool,
    events: AtomicU64,
    first_position: AtomicU64,
}

/// Returns whether a use of a right is logged whatever the configuration says.
pub(super) fn is_notable(right: Right) -> bool {
    matches!(right, Right::Operate | Right::ExecutePlayers)
}

/// Returns what the access log says about a caller.
pub(super) fn logged_caller(principal: Option<&Principal>, peer: &Peer) -> LoggedCaller {
    let facts = peer.facts();
    let token = principal.and_then(|principal| match &principal.credential {
        Credential::Token { id, .. } => Some(id.clone()),
        Credential::Off | Credential::Anonymous | Credential::Certificate(_) | Credential::Uid(_) => None,
    });
    LoggedCaller {
        identity: principal.map(|principal| principal.identity.name.clone()),
        token,
        address: facts.address,
        uid: facts.uid,
    }
}

impl CallPrincipal {
    pub(super) fn nobody() -> Self {
        Self(Kind::Nobody)
    }

    pub(super) fn known(call: KnownCall) -> Self {
        Self(Kind::Known(Arc::new(call)))
    }

    fn call(&self) -> Option<&KnownCall> {
        match &self.0 {
            Kind::Known(call) => Some(call),
            Kind::Unrestricted | Kind::Nobody => None,
        }
    }

    /// Returns whether the caller has an identity, which it may lose.
    pub(in crate::grpc::transport) fn is_known(&self) -> bool {
        self.call().is_some()
    }

    /// Records that the call uses a right, some of which are always logged.
    pub(in crate::grpc::transport) fn note_right(&self, right: Right) {
        if let Some(call) = self.call().filter(|_| is_notable(right)) {
            call.is_notable.store(true, Ordering::Relaxed);
        }
    }

    /// Records what the call has stored.
    pub(in crate::grpc::transport) fn note_stored(&self, events: u64, first_position: u64) {
        if let Some(call) = self.call() {
            call.events.store(events, Ordering::Relaxed);
            call.first_position.store(first_position, Ordering::Relaxed);
        }
    }

    /// Records the status with which the call is answered. `None` is success. A call is logged
    /// once: a status that was recorded before counts.
    pub(in crate::grpc::transport) fn note_status(&self, status: Option<&Status>) {
        if let Some(call) = self.call() {
            call.answered(status);
        }
    }

    /// Waits until the caller loses its identity, or has other rights than before. Returns the
    /// status with which an open stream ends then.
    pub(in crate::grpc) async fn revocation(&self) -> Status {
        self.revoked().await;
        let status = status::bad_credentials();
        if let Some(call) = self.call() {
            let mut entry = call.entry(EntryKind::Refusal, Some(&status));
            entry.cause = Some(self.cause_of_revocation().into());
            call.log.write(entry);
        }
        status
    }
}

impl Deref for CallPrincipal {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        match &self.0 {
            Kind::Unrestricted => &UNRESTRICTED,
            Kind::Nobody => &NOBODY,
            Kind::Known(call) => &call.principal,
        }
    }
}

impl fmt::Debug for CallPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallPrincipal").field(&self.identity.name).finish()
    }
}

impl KnownCall {
    pub(super) fn new(principal: Principal, peer: Peer, call: CallName, log: AccessLog) -> Self {
        Self {
            principal,
            peer,
            call,
            kind: EntryKind::Read,
            log,
            is_notable: AtomicBool::new(false),
            is_logged: AtomicBool::new(false),
            events: AtomicU64::new(0),
            first_position: AtomicU64::new(0),
        }
    }

    /// Sets what decides whether the call is logged if it is allowed.
    pub(super) fn of_kind(mut self, kind: EntryKind, is_notable: bool) -> Self {
        self.kind = kind;
        *self.is_notable.get_mut() = is_notable;
        self
    }

    fn answered(&self, status: Option<&Status>) {
        let kind = match status.and_then(status::refused_reason) {
            Some(_) => EntryKind::Refusal,
            None if self.is_notable.load(Ordering::Relaxed) => EntryKind::Always,
            None => self.kind,
        };
        if self.log.takes(kind) && !self.is_logged.swap(true, Ordering::Relaxed) {
            self.log.write(self.entry(kind, status));
        }
    }

    fn entry(&self, kind: EntryKind, status: Option<&Status>) -> Entry {
        let caller = logged_caller(Some(&self.principal), &self.peer);
        let code = status.map_or(Code::Ok, |status| status.code());
        let mut entry = Entry::new(kind, caller, self.call.clone(), status::code_name(code));
        if let Some(status) = status {
            let (reason, right) = status::reason(status).unzip();
            (entry.reason, entry.right) = (reason.map(Into::into), right.flatten().map(Into::into));
            entry.cause = status::cause(status).map(Into::into);
        }
        let events = self.events.load(Ordering::Relaxed);
        if events > 0 {
            entry.events = Some(events);
            entry.first_position = Some(self.first_position.load(Ordering::Relaxed));
        }
        entry
    }
}

impl Drop for KnownCall {
    /// The client of a call may be gone before it is answered. Its work has ended now.
    fn drop(&mut self) {
        if *self.is_notable.get_mut() && !*self.is_logged.get_mut() {
            self.answered(Some(&status::abandoned()));
        }
    }
}
