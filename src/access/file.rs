//! The file `access.yml`: what it may contain, and what it means.
//!
//! The file is read and checked as a whole. An error names the place, such as
//! `identities.arena-1.tokens[0].hash`, and never a value, which could be a token or a hash.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use super::{
    Right, Scope, Shares, TokenHash, is_name,
    roles::{self, Role},
    token,
};
use crate::event::{Timestamp, time};

mod error;
mod section;
#[cfg(test)]
mod tests;

pub use error::PolicyError;
use section::{Field, Section};

/// The maximum size of the file in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// The name of the callers without credentials. No identity of the file can have it.
pub(crate) const ANONYMOUS: &str = "anonymous";

const FILE_KEYS: &[&str] = &["roles", "identities"];
const ROLE_KEYS: &[&str] = &["may", "prefixes", "aggregate_types", "actors", "event_types", "shares"];
const IDENTITY_KEYS: &[&str] = &["role", "tokens", "certificate", "uid", "event_types", "shares"];
const TOKEN_KEYS: &[&str] = &["id", "hash", "not_before", "expires"];
const SHARES_KEYS: &[&str] = &[
    "share",
    "appends_per_second",
    "events_per_second",
    "bytes_per_second",
    "stored_bytes_max",
    "types_max",
];

const A_RIGHT: &str = "a right: append, append_world, snapshot, load, subscribe, execute, execute_players, \
                       ask, see_secrets, prove, stats, operate or reflect";
const SOME_IDENTITIES: &str = "a mapping of names to identities, or {} if there are none";
const A_TEXT: &str = "a text that is not empty";
const A_TIME: &str = "an RFC 3339 time with a zone, for example 2027-03-01T00:00:00Z, or a date";
const A_RATE: &str = "a number greater than 0";
const A_COUNT: &str = "a whole number";

/// The contents of the file.
#[derive(Debug)]
pub(super) struct AccessFile {
    pub roles: BTreeMap<String, Role>,
    pub identities: Vec<IdentityEntry>,
}

/// An identity of the file. No other one has its credentials.
#[derive(Debug)]
pub(super) struct IdentityEntry {
    pub name: String,
    /// The name of the role.
    pub role: String,
    /// What the role states, except for what the identity states itself.
    pub stated: Role,
    pub tokens: Vec<TokenEntry>,
    pub certificate: Option<String>,
    pub uid: Option<u32>,
}

#[derive(Debug)]
pub(super) struct TokenEntry {
    pub id: String,
    pub hash: TokenHash,
    pub not_before: Option<Timestamp>,
    pub expires: Option<Timestamp>,
}

/// The places of what must be unique in the file.
#[derive(Debug, Default)]
struct Places {
    token_ids: HashMap<String, String>,
    hashes: HashMap<TokenHash, String>,
    certificates: HashMap<String, String>,
    uids: HashMap<u32, String>,
}

/// Reads the file.
///
/// # Errors
/// Returns an error that names the place if anything in the file is not valid.
pub(super) fn read(yaml: &str) -> Result<AccessFile, PolicyError> {
    if yaml.len() > FILE_BYTES_MAX {
        return Err(PolicyError::TooLarge { bytes_max: FILE_BYTES_MAX });
    }
    let mut file = Section::of_text(yaml, FILE_KEYS)?;
    let roles = file.take("roles").map(roles_of).transpose()?.unwrap_or_default();
    // A file that is just being written would remove all identities without this key, or without
    // anything below it.
    let identities = file.require("identities")?.required(SOME_IDENTITIES)?.entries()?;
    let mut places = Places::default();
    let identities = identities.into_iter().map(|(name, field)| identity(name, field, &roles, &mut places));
    let identities = identities.collect::<Result<Vec<_>, _>>()?;
    Ok(AccessFile { roles, identities })
}

/// Returns the role with this name, from the file or ready-made.
///
/// # Errors
/// Returns an error that names the place if there is none.
pub(super) fn find_role(
    roles: &BTreeMap<String, Role>,
    name: &str,
    place: &str,
) -> Result<Role, PolicyError> {
    let role = roles.get(name).cloned().or_else(|| roles::ready_made(name));
    role.ok_or_else(|| {
        let role = if is_name(name) { name } else { "***" };
        PolicyError::UnknownRole { place: place.to_owned(), role: role.to_owned() }
    })
}

fn roles_of(field: Field) -> Result<BTreeMap<String, Role>, PolicyError> {
    let entries = field.entries()?.into_iter().map(|(name, field)| {
        if roles::ready_made(&name).is_some() {
            return Err(PolicyError::ReadyMade { place: field.place().to_owned() });
        }
        Ok((name, role(field)?))
    });
    entries.collect()
}

fn role(field: Field) -> Result<Role, PolicyError> {
    let mut role = field.section(ROLE_KEYS)?;
    let rights = role.require("may")?.list()?.into_iter();
    let rights = rights.map(|right| right.parse(A_RIGHT, |value| Right::parse(value.as_str()?)));
    Ok(Role {
        rights: rights.collect::<Result<_, _>>()?,
        scope: Scope {
            prefixes: role.take("prefixes").map(texts).transpose()?,
            aggregate_types: role.take("aggregate_types").map(texts).transpose()?,
        },
        actors: role.take("actors").map(texts).transpose()?,
        event_types: role.take("event_types").map(texts).transpose()?,
        shares: shares(role.take("shares"), Shares::default())?,
    })
}

fn identity(
    name: String,
    field: Field,
    roles: &BTreeMap<String, Role>,
    places: &mut Places,
) -> Result<IdentityEntry, PolicyError> {
    if name == ANONYMOUS {
        return Err(PolicyError::Reserved { place: field.place().to_owned() });
    }
    let mut identity = field.section(IDENTITY_KEYS)?;
    let role = identity.require("role")?;
    let place = role.place().to_owned();
    let role = role.parse("the name of a role", |value| Some(value.as_str()?.to_owned()))?;
    let mut stated = find_role(roles, &role, &place)?;
    if let Some(field) = identity.take("event_types") {
        stated.event_types = Some(texts(field)?);
    }
    stated.shares = shares(identity.take("shares"), stated.shares)?;
    let tokens = identity.take("tokens").map(Field::list).transpose()?.unwrap_or_default();
    let tokens = tokens.into_iter().map(|field| token_entry(field, places)).collect::<Result<Vec<_>, _>>()?;
    let certificate = match identity.take("certificate") {
        None => None,
        Some(field) => Some(unique(field, &mut places.certificates, A_TEXT, text)?),
    };
    let uid = match identity.take("uid") {
        None => None,
        Some(field) => Some(unique(field, &mut places.uids, "the number of a user", |value| {
            u32::try_from(value.as_u64()?).ok()
        })?),
    };
    Ok(IdentityEntry { name, role, stated, tokens, certificate, uid })
}

fn token_entry(field: Field, places: &mut Places) -> Result<TokenEntry, PolicyError> {
    const AN_ID: &str = "the id of a token in quotes: 8 lowercase letters and digits";
    const A_HASH: &str = "sha256: and 64 lowercase hexadecimal digits, in quotes";
    let place = field.place().to_owned();
    let mut token = field.section(TOKEN_KEYS)?;
    let id = unique(token.require("id")?, &mut places.token_ids, AN_ID, |value| {
        value.as_str().filter(|id| token::is_id(id)).map(str::to_owned)
    })?;
    let hash = unique(token.require("hash")?, &mut places.hashes, A_HASH, |value| {
        TokenHash::parse(value.as_str()?)
    })?;
    let not_before = token.take("not_before").map(moment).transpose()?;
    let expires = token.take("expires").map(moment).transpose()?;
    if let (Some(not_before), Some(expires)) = (not_before, expires)
        && expires <= not_before
    {
        return Err(PolicyError::NeverValid { place });
    }
    Ok(TokenEntry { id, hash, not_before, expires })
}

/// Returns the shares: those in the field, and for all others the values in `base`.
fn shares(field: Option<Field>, base: Shares) -> Result<Shares, PolicyError> {
    let Some(field) = field else { return Ok(base) };
    let mut stated = field.section(SHARES_KEYS)?;
    let share = stated.take("share").map(|field| {
        field.parse("a number greater than 0, at most 1", |value| {
            value.as_f64().filter(|share| *share > 0.0 && *share <= 1.0)
        })
    });
    let mut rate = |key, base| match stated.take(key) {
        None => Ok(base),
        Some(field) => field
            .parse(A_RATE, |value| value.as_f64().filter(|rate| *rate > 0.0 && rate.is_finite()))
            .map(Some),
    };
    let appends_per_second = rate("appends_per_second", base.appends_per_second)?;
    let events_per_second = rate("events_per_second", base.events_per_second)?;
    let bytes_per_second = rate("bytes_per_second", base.bytes_per_second)?;
    let mut count = |key, base| match stated.take(key) {
        None => Ok(base),
        Some(field) => field.parse(A_COUNT, serde_yaml::Value::as_u64).map(Some),
    };
    Ok(Shares {
        share: share.transpose()?.unwrap_or(base.share),
        appends_per_second,
        events_per_second,
        bytes_per_second,
        stored_bytes_max: count("stored_bytes_max", base.stored_bytes_max)?,
        types_max: count("types_max", base.types_max)?,
    })
}

/// Parses a value that no other place may have.
fn unique<T: Clone + Eq + Hash>(
    field: Field,
    places: &mut HashMap<T, String>,
    expected: &'static str,
    parse: impl FnOnce(&serde_yaml::Value) -> Option<T>,
) -> Result<T, PolicyError> {
    let place = field.place().to_owned();
    let value = field.parse(expected, parse)?;
    match places.insert(value.clone(), place.clone()) {
        None => Ok(value),
        Some(first) => Err(PolicyError::Twice { place, first }),
    }
}

fn texts<T: FromIterator<String>>(field: Field) -> Result<T, PolicyError> {
    field.list()?.into_iter().map(|field| field.parse(A_TEXT, text)).collect()
}

fn text(value: &serde_yaml::Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn moment(field: Field) -> Result<Timestamp, PolicyError> {
    field.parse(A_TIME, |value| parse_time(value.as_str()?))
}

/// Parses a time in RFC 3339 format, or a date, which is its start in UTC.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let is_date = text.len() == "2027-03-01".len()
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if is_date { time::parse(&format!("{text}T00:00:00Z")) } else { time::parse(text) }
}
