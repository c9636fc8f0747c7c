//! Tokens, `access.yml` and headers for the fuzz targets. See [`crate::fuzzing`].
//!
//! Panics if a changed token is accepted, if a secret is shown, or if wrong credentials are treated
//! as none.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a broken promise has to end the run")]

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use super::{
    AccessSettings, Credential, NAME_BYTES_MAX, Offer, Policy, Token, TokenHash,
    token::{self, TOKEN_BYTES},
};
use crate::grpc::fuzzing::offered_token;

/// The name of the only identity in the policy for headers.
const KNOWN: &str = "known";

/// Reads the bytes as a token and as a hash, and makes a token of them.
pub fn tokens(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        if let Ok(parts) = token::parse(text) {
            assert_eq!(text.len(), TOKEN_BYTES);
            assert!(text.contains(parts.id), "its id");
            changed(text, bytes);
        }
        if let Some(hash) = TokenHash::parse(text) {
            assert_eq!(hash.to_string(), text, "a hash");
        }
    }
    let token = made_of(bytes);
    let parts = token::parse(token.text()).expect("a token of ours");
    assert_eq!((parts.id, parts.hash), (token.id(), token.hash()));
    changed(token.text(), bytes);
}

/// Returns a token whose id and secret are made of the bytes.
fn made_of(bytes: &[u8]) -> Token {
    let (mut number, mut secret) = ([0_u8; 8], [0_u8; 32]);
    for (to, from) in number.iter_mut().chain(&mut secret).zip(bytes) {
        *to = *from;
    }
    Token::of(u64::from_le_bytes(number), &secret)
}

/// Checks that a token is not accepted with one character replaced. The last bytes choose the place
/// and the character.
fn changed(text: &str, bytes: &[u8]) {
    let mut last = bytes.iter().rev().copied();
    let (at, other) = (last.next().unwrap_or(0), last.next().unwrap_or(0) & 0x7f);
    let mut other_text = text.as_bytes().to_vec();
    let at = usize::from(at) % other_text.len();
    if other_text[at] != other {
        other_text[at] = other;
        let other_text = String::from_utf8(other_text).expect("ASCII");
        token::parse(&other_text).expect_err("a changed token");
    }
}

/// Reads a file, which may be followed by the role of anonymous callers, after a NUL.
pub fn access_file(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (yaml, anonymous) = match text.split_once('\0') {
        Some((yaml, role)) => (yaml, Some(role.to_owned())),
        None => (text, None),
    };
    let settings = AccessSettings { anonymous, ..AccessSettings::default() };
    match Policy::parse(yaml, &settings) {
        Err(error) => {
            let shown = format!("{error} {error:?}");
            // Tokens and hashes are longer than names. The texts of the errors have no such words.
            let is_secret = |word: &&str| word.len() > NAME_BYTES_MAX;
            let words = text.split(|character: char| !character.is_ascii_alphanumeric());
            for secret in words.filter(is_secret) {
                assert!(!shown.contains(secret), "a secret is shown: {shown}");
            }
        }
        Ok(policy) => {
            let described = policy.describe();
            let again = Policy::parse(yaml, &settings).expect("the same file");
            assert_eq!(again.describe(), described);
            // The name in a certificate may be anything.
            let shows_text = yaml.contains("certificate");
            assert!(shows_text || !described.concat().contains("sha256"), "{described:?}");
        }
    }
}

/// Reads lines as fields of a header: `authorization`, or `authorization-bin` after a minus sign.
pub fn authorization(bytes: &[u8]) {
    const BINARY: HeaderName = HeaderName::from_static("authorization-bin");
    let known = made_of(&[7; 40]);
    let (mut headers, mut fields) = (HeaderMap::new(), 0);
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let (name, value) = match line.strip_prefix(b"-") {
            Some(value) => (BINARY, value),
            None => (AUTHORIZATION, line),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
            fields += 1;
        }
    }
    let Ok(token) = offered_token(&headers) else { return };
    assert_eq!(token.is_some(), fields == 1, "one field is a token, and none is no token");
    let offer = Offer { token, is_protected: true, ..Offer::default() };
    match policy(&known).identify(offer, SystemTime::UNIX_EPOCH) {
        Ok((_, Credential::Anonymous)) => assert_eq!(fields, 0, "wrong credentials are treated as none"),
        Ok((identity, Credential::Token { .. })) => {
            assert_eq!((token, &*identity.name), (Some(known.text()), KNOWN));
        }
        Ok((_, credential)) => {
            assert_eq!(credential, Credential::Anonymous, "nothing else was offered");
        }
        Err(_) => assert!(token.is_some_and(|token| token != known.text())),
    }
}

/// Returns a policy with one identity that has this token. Others are anonymous.
fn policy(known: &Token) -> Policy {
    let (id, hash) = (known.id(), known.hash());
    let yaml =
        format!("identities:\n  {KNOWN}: {{ role: reader, tokens: [{{ id: {id}, hash: \"{hash}\" }}] }}\n");
    let settings = AccessSettings { anonymous: Some("monitor".to_owned()), ..AccessSettings::default() };
    Policy::parse(&yaml, &settings).expect("a file of ours")
}
