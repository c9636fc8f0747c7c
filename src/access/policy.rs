//! What is decided about callers: who they are, and what each may do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Right, Rights, Scope, Shares, TokenError, TokenHash,
    file::{self, ANONYMOUS, FILE_BYTES_MAX, IdentityEntry, PolicyError},
    roles::Role,
    token,
};
use crate::{
    event::{Timestamp, time},
    printable::escaped,
};

#[cfg(test)]
mod tests;

/// A caller as `access.yml` describes it.
#[derive(Debug, PartialEq)]
pub struct Identity {
    /// The name. Empty while access control is off.
    pub name: Arc<str>,
    /// The name of its role. Empty while access control is off.
    pub role: Arc<str>,
    /// What it may do.
    pub rights: Rights,
    /// The aggregates that it may name.
    pub scope: Scope,
    /// The actors that it may name. `None`: any.
    pub actors: Option<BTreeSet<String>>,
    /// The event types that it may append. `None`: any.
    pub event_types: Option<BTreeSet<String>>,
    /// Its limits.
    pub shares: Shares,
}

impl Identity {
    fn new(name: &str, role: &str, stated: Role) -> Self {
        let Role { rights, scope, actors, event_types, shares } = stated;
        Self { name: name.into(), role: role.into(), rights, scope, actors, event_types, shares }
    }

    /// Everybody while access control is off.
    pub(super) fn unrestricted() -> Self {
        Self::new("", "", Role { rights: Rights::ALL, ..Role::default() })
    }
}

/// What a caller offers to prove who it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offer<'a> {
    /// The text after `Bearer` in the header `authorization`.
    pub token: Option<&'a str>,
    /// The name in the verified certificate of the client.
    pub certificate: Option<&'a str>,
    /// The user at the other end of a unix socket.
    pub uid: Option<u32>,
    /// Whether a token may be sent over this connection: TLS, a unix socket, or loopback to
    /// loopback.
    pub is_protected: bool,
}

/// How an identity was proven. Names no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Access control is off.
    Off,
    /// Nothing was offered, or nothing that belongs to an identity.
    Anonymous,
    /// A token.
    Token {
        /// The id of the token.
        id: Arc<str>,
        /// What it is looked up by.
        hash: TokenHash,
    },
    /// The name in the certificate of the client.
    Certificate(Arc<str>),
    /// The user at the other end of a unix socket.
    Uid(u32),
}

/// Why a caller is not identified. The texts are for the log only: all callers get the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing was offered, and anonymous callers are not allowed.
    #[error("no credentials")]
    NoCredentials,
    /// The text is not a token.
    #[error("malformed token")]
    Malformed,
    /// The checksum of the token does not match.
    #[error("mistyped token")]
    WrongCheck,
    /// No identity has this token. It may have been revoked.
    #[error("unknown token")]
    Unknown,
    /// The token is not valid yet.
    #[error("token is not valid yet")]
    NotYetValid,
    /// The token has expired.
    #[error("expired token")]
    Expired,
    /// The token was sent over an unencrypted connection.
    #[error("token was sent over an unencrypted connection")]
    SentInClear,
    /// No identity has this certificate.
    #[error("certificate of no identity")]
    UnknownCertificate,
    /// No identity has this user.
    #[error("user of no identity")]
    UnknownUser,
}

impl From<TokenError> for Denied {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Malformed => Self::Malformed,
            TokenError::WrongCheck => Self::WrongCheck,
        }
    }
}

/// What the configuration says about access, apart from the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccessSettings {
    /// The role of callers without credentials. `None`: they are refused.
    pub anonymous: Option<String>,
    /// Whether tokens are accepted over unencrypted connections.
    pub allow_cleartext: bool,
    /// Whether client certificates are checked.
    pub client_certificates: bool,
    /// Whether the service listens on a unix socket, whose callers have a user id.
    pub unix_socket: bool,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read, or is not UTF-8.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What failed. Its kind is `InvalidData` if the file is not UTF-8.
        source: io::Error,
    },
    /// The file is not valid.
    #[error("{path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PolicyError,
    },
    /// The configuration is not valid.
    #[error(transparent)]
    Settings(PolicyError),
}

/// Who may do what.
#[derive(Debug)]
pub struct Policy {
    /// Every caller while access control is off, otherwise `None`.
    everybody: Option<Arc<Identity>>,
    anonymous: Option<Arc<Identity>>,
    identities: BTreeMap<Arc<str>, Arc<Identity>>,
    tokens: HashMap<TokenHash, KnownToken>,
    certificates: HashMap<Arc<str>, Arc<Identity>>,
    uids: HashMap<u32, Arc<Identity>>,
    allow_cleartext: bool,
}

#[derive(Debug)]
struct KnownToken {
    id: Arc<str>,
    identity: Arc<Identity>,
    not_before: Option<Timestamp>,
    expires: Option<Timestamp>,
}

impl KnownToken {
    fn check(&self, now: SystemTime) -> Result<(), Denied> {
        if self.not_before.is_none() && self.expires.is_none() {
            return Ok(());
        }
        let now = timestamp(now);
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return Err(Denied::NotYetValid);
        }
        if self.expires.is_some_and(|expires| now >= expires) { Err(Denied::Expired) } else { Ok(()) }
    }

    /// Says since when and until when the token is valid.
    fn validity(&self) -> String {
        let since = self.not_before.map(|at| format!(" is valid from {}", time::format(at)));
        let until = self.expires.map(|at| format!(" expires {}", time::format(at)));
        match (since, until) {
            (Some(since), Some(until)) => format!("{since} and{until}"),
            (Some(since), None) => format!("{since} and does not expire"),
            (None, Some(until)) => until,
            (None, None) => " does not expire".to_owned(),
        }
    }
}

impl Policy {
    /// Returns the policy while access control is off: every caller may do everything, and nothing
    /// is required of it.
    pub fn off() -> Self {
        Self { everybody: Some(Arc::new(Identity::unrestricted())), ..Self::empty(false) }
    }

    /// Returns the policy that the text of `access.yml` states.
    ///
    /// # Errors
    /// Returns an error that names the place if anything in the file is not valid, or if there is
    /// no role for anonymous callers of this name.
    pub fn parse(yaml: &str, settings: &AccessSettings) -> Result<Self, PolicyError> {
        let mut file = file::read(yaml)?;
        let mut policy = Self::empty(settings.allow_cleartext);
        policy.allow_anonymous(settings, &file.roles)?;
        // A share is what others leave to an identity, and it has no others.
        if let ([alone], None) = (&mut *file.identities, &policy.anonymous)
            && alone.stated.shares.share == Shares::SHARE_DEFAULT
        {
            alone.stated.shares.share = 1.0;
        }
        file.identities.into_iter().for_each(|entry| policy.add(entry));
        Ok(policy)
    }

    /// Returns the policy without a file: all callers are anonymous. Without a role for them,
    /// access control is off.
    ///
    /// # Errors
    /// Returns an error if there is no ready-made role of this name.
    pub fn without_file(settings: &AccessSettings) -> Result<Self, PolicyError> {
        if settings.anonymous.is_none() {
            return Ok(Self::off());
        }
        let mut policy = Self::empty(settings.allow_cleartext);
        policy.allow_anonymous(settings, &BTreeMap::new())?;
        Ok(policy)
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if the policy is not valid.
    pub fn load(path: Option<&Path>, settings: &AccessSettings) -> Result<Self, LoadError> {
        let Some(path) = path else { return Self::without_file(settings).map_err(LoadError::Settings) };
        Self::parse(&read(path)?, settings)
            .map_err(|source| LoadError::Invalid { path: path.to_owned(), source })
    }

    fn empty(allow_cleartext: bool) -> Self {
        Self {
            everybody: None,
            anonymous: None,
            identities: BTreeMap::new(),
            tokens: HashMap::new(),
            certificates: HashMap::new(),
            uids: HashMap::new(),
            allow_cleartext,
        }
    }

    fn allow_anonymous(
        &mut self,
        settings: &AccessSettings,
        roles: &BTreeMap<String, Role>,
    ) -> Result<(), PolicyError> {
        if let Some(role) = &settings.anonymous {
            let stated = file::find_role(roles, role, "access.anonymous")?;
            self.anonymous = Some(Arc::new(Identity::new(ANONYMOUS, role, stated)));
        }
        Ok(())
    }

    /// Adds an identity. Nothing of it is in the policy already: the file was checked.
    fn add(&mut self, entry: IdentityEntry) {
        let identity = Arc::new(Identity::new(&entry.name, &entry.role, entry.stated));
        for token in entry.tokens {
            let (id, identity) = (token.id.into(), identity.clone());
            let known = KnownToken { id, identity, not_before: token.not_before, expires: token.expires };
            self.tokens.insert(token.hash, known);
        }
        if let Some(certificate) = entry.certificate {
            self.certificates.insert(certificate.into(), identity.clone());
        }
        if let Some(uid) = entry.uid {
            self.uids.insert(uid, identity.clone());
        }
        self.identities.insert(identity.name.clone(), identity);
    }

    /// Returns remarks on what may not be meant: callers without credentials may write although
    /// others have names, or nobody can prove an identity in the way that the file states. The file
    /// may have been added to a configuration without one.
    pub fn warnings(&self, settings: &AccessSettings) -> Vec<&'static str> {
        let certificates = !self.certificates.is_empty() && !settings.client_certificates;
        let uids = !self.uids.is_empty() && !settings.unix_socket;
        let useless = [
            certificates.then_some(
                "access.file: no caller can use `certificate`, because server.tls.client_ca_file is not set",
            ),
            uids.then_some("access.file: no caller can use `uid`, because server.listen has no unix socket"),
        ];
        self.anonymous_writes().into_iter().chain(useless.into_iter().flatten()).collect()
    }

    fn anonymous_writes(&self) -> Option<&'static str> {
        let writes = [
            Right::Append,
            Right::AppendWorld,
            Right::Snapshot,
            Right::Execute,
            Right::ExecutePlayers,
            Right::Operate,
        ];
        let anonymous = self.anonymous.as_ref().filter(|_| self.names_anybody());
        anonymous.filter(|anonymous| anonymous.rights.has_any(&writes)).map(
            |_| "access.anonymous: callers without credentials may write, although access.file names callers",
        )
    }

    /// Returns whether any caller has a name: all others are anonymous.
    pub fn names_anybody(&self) -> bool {
        !self.identities.is_empty()
    }

    /// Returns whether access control is off.
    pub fn is_off(&self) -> bool {
        self.everybody.is_some()
    }

    /// Returns whose call it is. A token names the caller even if there is a certificate as well,
    /// and a wrong token is refused even then.
    ///
    /// # Errors
    /// Returns an error if what is offered does not prove an identity, and the caller cannot be
    /// anonymous.
    pub fn identify(&self, offer: Offer<'_>, now: SystemTime) -> Result<(Arc<Identity>, Credential), Denied> {
        if let Some(everybody) = &self.everybody {
            return Ok((everybody.clone(), Credential::Off));
        }
        if let Some(text) = offer.token {
            let hash = token::parse(text)?.hash;
            let known = self.valid_token(hash, now)?;
            // Only of a token that is valid: others could use up the warnings of the log.
            if !offer.is_protected && !self.allow_cleartext {
                return Err(Denied::SentInClear);
            }
            let credential = Credential::Token { id: known.id.clone(), hash };
            return Ok((known.identity.clone(), credential));
        }
        let mut denied = Denied::NoCredentials;
        if let Some(name) = offer.certificate {
            if let Some((name, identity)) = self.certificates.get_key_value(name) {
                return Ok((identity.clone(), Credential::Certificate(name.clone())));
            }
            denied = Denied::UnknownCertificate;
        } else if let Some(uid) = offer.uid {
            if let Some(identity) = self.uids.get(&uid) {
                return Ok((identity.clone(), Credential::Uid(uid)));
            }
            denied = Denied::UnknownUser;
        }
        let anonymous = self.anonymous.clone().ok_or(denied)?;
        Ok((anonymous, Credential::Anonymous))
    }

    /// Returns the identity that a credential proves now.
    ///
    /// # Errors
    /// Returns an error if it proves none any longer.
    pub fn identity_of(&self, credential: &Credential, now: SystemTime) -> Result<Arc<Identity>, Denied> {
        if let Some(everybody) = &self.everybody {
            return Ok(everybody.clone());
        }
        match credential {
            Credential::Off => Err(Denied::NoCredentials),
            Credential::Anonymous => self.anonymous.clone().ok_or(Denied::NoCredentials),
            Credential::Token { hash, .. } => Ok(self.valid_token(*hash, now)?.identity.clone()),
            Credential::Certificate(name) => {
                self.certificates.get(name).cloned().ok_or(Denied::UnknownCertificate)
            }
            Credential::Uid(uid) => self.uids.get(uid).cloned().ok_or(Denied::UnknownUser),
        }
    }

    fn valid_token(&self, hash: TokenHash, now: SystemTime) -> Result<&KnownToken, Denied> {
        let known = self.tokens.get(&hash).ok_or(Denied::Unknown)?;
        known.check(now).map(|()| known)
    }

    /// Returns all identities: those of the file by name, then the anonymous one or, while access
    /// control is off, everybody.
    pub fn identities(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.identities.values().chain(&self.anonymous).chain(&self.everybody)
    }

    /// Describes the policy for people, in lines: names, roles and how long tokens are valid. No
    /// token and no hash is shown.
    pub fn describe(&self) -> Vec<String> {
        if self.is_off() {
            return vec!["access control is off: every caller may do everything".to_owned()];
        }
        let mut credentials = self.credentials();
        let mut lines: Vec<String> = Vec::new();
        for identity in self.identities.values() {
            let mut proofs = credentials.remove(&identity.name).unwrap_or_default();
            if proofs.is_empty() {
                proofs.push("no credentials".to_owned());
            }
            let (name, role) = (&identity.name, &identity.role);
            lines.push(format!("identity {name}: role {role}; {}", proofs.join("; ")));
        }
        lines.push(match &self.anonymous {
            Some(anonymous) => format!("callers without credentials: role {}", anonymous.role),
            None => "callers without credentials: refused".to_owned(),
        });
        if self.allow_cleartext {
            lines.push("tokens are accepted over unencrypted connections".to_owned());
        }
        lines
    }

    /// Describes the credentials of each identity.
    fn credentials(&self) -> BTreeMap<&Arc<str>, Vec<String>> {
        let mut credentials: BTreeMap<&Arc<str>, Vec<String>> = BTreeMap::new();
        let mut tokens: Vec<&KnownToken> = self.tokens.values().collect();
        tokens.sort_by(|one, other| one.id.cmp(&other.id));
        for token in tokens {
            let said = format!("token {}{}", token.id, token.validity());
            credentials.entry(&token.identity.name).or_default().push(said);
        }
        for (name, identity) in &self.certificates {
            let said = format!("certificate {}", escaped(name));
            credentials.entry(&identity.name).or_default().push(said);
        }
        for (uid, identity) in &self.uids {
            credentials.entry(&identity.name).or_default().push(format!("uid {uid}"));
        }
        credentials
    }
}

/// Reads a file as text. No more is read than a valid file can have.
fn read(path: &Path) -> Result<String, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let limit = (FILE_BYTES_MAX as u64).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() > FILE_BYTES_MAX {
        let source = PolicyError::TooLarge { bytes_max: FILE_BYTES_MAX };
        return Err(LoadError::Invalid { path: path.to_owned(), source });
    }
    String::from_utf8(bytes).map_err(|_| unreadable(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8")))
}

/// Returns a time of the system's clock as a timestamp.
fn timestamp(at: SystemTime) -> Timestamp {
    let nanos = |since: Duration| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    Timestamp::from_nanos_since_1970(match at.duration_since(UNIX_EPOCH) {
        Ok(since) => nanos(since),
        Err(before) => nanos(before.duration()).saturating_neg(),
    })
}
