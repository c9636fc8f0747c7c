//! Password hashes.
//!
//! A password itself is never accepted: any text that could be one is refused. A hash never appears
//! in a log.

mod forms;

use std::fmt;

use serde::{Deserialize, Serialize};

/// A password hash in one of the formats that games use: a PHC string, a bcrypt hash, a hexadecimal
/// digest, or one of the forms that other games and their libraries use.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Validates a hash sent by a client. Returns `None` if it could be a plaintext password, or if
    /// it is too long.
    pub fn new(text: &str) -> Option<Self> {
        const BYTES_MAX: usize = 1024;
        let is_hash = is_digest(text) || is_bcrypt(text) || is_phc(text) || forms::is_known(text);
        (is_hash && text.len() <= BYTES_MAX).then(|| Self(text.to_owned()))
    }

    /// Returns the hash, for comparing it with a password.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// MD5, SHA-1, SHA-224, SHA-256, SHA-384 or SHA-512 in hexadecimal.
fn is_digest(text: &str) -> bool {
    matches!(text.len(), 32 | 40 | 56 | 64 | 96 | 128) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `$2b$12$` and 53 characters of salt and hash.
fn is_bcrypt(text: &str) -> bool {
    let mut parts = text.split('$');
    let (Some(""), Some(version), Some(cost), Some(rest), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    matches!(version, "2" | "2a" | "2b" | "2x" | "2y")
        && cost.len() == 2
        && cost.bytes().all(|byte| byte.is_ascii_digit())
        && rest.len() == 53
        && rest.bytes().all(is_crypt_character)
}

fn is_crypt_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/')
}

/// `$id[$v=version][$name=value,…]$salt$hash`, as in the PHC string format. Salt and hash are
/// required here.
fn is_phc(text: &str) -> bool {
    let Some(text) = text.strip_prefix('$') else { return false };
    let mut parts = text.split('$').peekable();
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if !parts.next().is_some_and(is_name) {
        return false;
    }
    while parts.next_if(|part| is_parameters(part)).is_some() {}
    let is_base64 = |part: &str| {
        part.len() >= 4
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'.' | b'-'))
    };
    let rest: Vec<&str> = parts.collect();
    const HASH_CHARACTERS_MIN: usize = 16;
    matches!(rest.as_slice(), [salt, hash] if is_base64(salt) && is_base64(hash) && hash.len() >= HASH_CHARACTERS_MIN)
}

/// `m=65536,t=3,p=4`
fn is_parameters(part: &str) -> bool {
    let is_parameter = |one: &str| match one.split_once('=') {
        Some((name, value)) => {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !value.is_empty()
                && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'+' | b'.' | b'-'))
        }
        None => false,
    };
    part.split(',').all(is_parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_hash_is_taken() {
        for text in [
            "5f4dcc3b5aa765d61d8327deb882cf99",
            "5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8",
            "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
            "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
            "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b27cWPtkPpN/xnIDdpALw3sCx8",
            "$scrypt$ln=15,r=8,p=1$D/EEcdfeBYmZSdE0MUmHTg$fRZnWP1VHTKRxhpzTvXUHO/lMCqEH08lbZcLgbRO6AE",
            "$pbkdf2-sha256$i=29000$N2YMIWQsBWBMae09x1jrPQ$1t8iyB2A.WF/Z5JZv.lfCIhXXN33N23OSgQYThYRRfk",
        ] {
            assert!(PasswordHash::new(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_could_be_a_password_is_refused() {
        for text in [
            "",
            "secret",
            "correct horse battery staple",
            "$ecret",
            "$a$b$c",
            "$2b$12$short",
            "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ",
            "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$short",
            "5f4dcc3b5aa765d61d8327deb882cf9",
            "5f4dcc3b5aa765d61d8327deb882cf9g",
        ] {
            assert!(PasswordHash::new(text).is_none(), "{text}");
        }
        assert!(
            PasswordHash::new(&format!("$scrypt$ln=15{}$aaaa$aaaaaaaaaaaaaaaa", ",a=1".repeat(400)))
                .is_none()
        );
    }

    #[test]
    fn a_hash_shows_in_no_log() {
        let hash = PasswordHash::new("5f4dcc3b5aa765d61d8327deb882cf99").unwrap();
        assert_eq!(format!("{hash:?}"), "***");
    }
}
