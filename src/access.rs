//! Access control: who calls, and what the caller may do.
//!
//! A [`Policy`] is what `access.yml` states: identities, the credentials that prove them, and their
//! rights. It is read and checked as a whole, and replaced as a whole. [`AccessControl`] has the
//! policy in effect. A [`Principal`] is the caller of one call.
//!
//! The module knows neither gRPC nor the configuration: callers pass what a connection offers as an
//! [`Offer`]. Tokens are kept as hashes only, and no error, description or debug output shows a
//! token or its hash.

mod control;
mod file;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod policy;
mod rights;
mod roles;
mod scope;
mod shares;
pub mod token;

pub use control::{AccessControl, Principal};
pub(crate) use file::ANONYMOUS;
pub use file::{FILE_BYTES_MAX, PolicyError, parse_time};
pub use policy::{AccessSettings, Credential, Denied, Identity, LoadError, Offer, Policy};
pub use rights::{Right, Rights};
pub use scope::Scope;
pub use shares::Shares;
pub use token::{NoRandomNumbers, Token, TokenError, TokenHash, TokenParts};

/// The maximum length of the name of an identity or a role, in bytes. A token and its hash are
/// longer, so that neither is shown if it is used as a name by mistake.
pub const NAME_BYTES_MAX: usize = 40;

/// Returns whether an identity or a role can have this name.
pub fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@/".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain_and_never_a_token_or_a_hash() {
        for name in ["a", "arena-1", "builder@tools", "team/arena_1.eu", &"n".repeat(NAME_BYTES_MAX)] {
            assert!(is_name(name), "{name}");
        }
        let token = Token::generate().unwrap();
        let hash = token.hash().to_string();
        let hex = hash.strip_prefix("sha256:").unwrap();
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "a b", "é", "a:b", "a\n", "\u{1b}", &long, token.text(), &hash, hex] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
