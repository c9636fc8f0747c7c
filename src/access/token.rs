//! Tokens: their form, how they are generated, and the hashes that stand for them.
//!
//! A token is `aes1_`, an id of 8 characters, `_`, 32 random bytes in base 62 (43 characters), and
//! the CRC-32 of all before in base 62 (6 characters). The prefix and the checksum let a scanner
//! find a leaked token, and distinguish a mistyped token from a wrong one without a lookup. The
//! secret has 256 random bits, so a plain SHA-256 of the token can be stored, and looked up without
//! a comparison in constant time.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::secret::Secret;

const PREFIX: &str = "aes1_";
const ID_CHARS: usize = 8;
const SECRET_CHARS: usize = 43;
const CHECK_CHARS: usize = 6;
/// The length of a token in bytes.
pub const TOKEN_BYTES: usize = PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS + CHECK_CHARS;
const SECRET_BYTES: usize = 32;
/// What the text form of a hash begins with.
const SHA256: &str = "sha256:";
const BASE_62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The characters of an id. The first one is a letter, so that YAML never reads an id as a number.
const BASE_36: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const LETTERS: u64 = 26;

/// Why a text is not a token. No text shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text has another form.
    #[error("not a token: a token has {TOKEN_BYTES} characters and begins with {PREFIX}")]
    Malformed,
    /// The checksum does not match, as after a typing mistake.
    #[error("mistyped or incomplete token: its checksum does not match")]
    WrongCheck,
}

/// The operating system did not provide random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system provides no random numbers")]
pub struct NoRandomNumbers;

/// The SHA-256 of a token. Its debug output does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Parses the text form: `sha256:` and 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text.strip_prefix(SHA256)?, &mut hash).ok()?;
        // Lowercase digits only.
        let hash = Self(hash);
        (hash.to_string() == text).then_some(hash)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SHA256}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(***)")
    }
}

/// A new token. Printing it shows no secret.
#[derive(Debug, Clone)]
pub struct Token {
    text: Secret,
    id: String,
    hash: TokenHash,
}

impl Token {
    /// Generates a token.
    ///
    /// # Errors
    /// Returns an error if the operating system provides no random numbers.
    pub fn generate() -> Result<Self, NoRandomNumbers> {
        let random = SystemRandom::new();
        let (mut number, mut secret) = ([0_u8; 8], [0_u8; SECRET_BYTES]);
        random.fill(&mut number).map_err(|_| NoRandomNumbers)?;
        random.fill(&mut secret).map_err(|_| NoRandomNumbers)?;
        Ok(Self::of(u64::from_le_bytes(number), &secret))
    }

    /// Returns the token of these random numbers.
    pub(super) fn of(number: u64, secret: &[u8; SECRET_BYTES]) -> Self {
        let id = id(number);
        let mut text = format!("{PREFIX}{id}_{}", base_62(secret));
        let digits = check(text.as_bytes());
        text.extend(digits.map(char::from));
        let hash = TokenHash::of(&text);
        Self { text: Secret::new(text), id, hash }
    }

    /// Returns the token itself. It is secret.
    pub fn text(&self) -> &str {
        self.text.expose()
    }

    /// Returns the id, which is not secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the hash, which stands for the token in `access.yml`.
    pub fn hash(&self) -> TokenHash {
        self.hash
    }
}

/// What a token says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenParts<'t> {
    /// Tells tokens apart. It is not secret, and does not show whether the token is valid.
    pub id: &'t str,
    /// What the token is looked up by.
    pub hash: TokenHash,
}

/// Takes a token apart, and checks its form and its checksum.
///
/// # Errors
/// Returns an error if the text is not a token.
pub fn parse(text: &str) -> Result<TokenParts<'_>, TokenError> {
    let (covered, found) = split(text).ok_or(TokenError::Malformed)?;
    let id = covered.get(PREFIX.len()..PREFIX.len() + ID_CHARS).ok_or(TokenError::Malformed)?;
    if found.as_bytes() != check(covered.as_bytes()) {
        return Err(TokenError::WrongCheck);
    }
    Ok(TokenParts { id, hash: TokenHash::of(text) })
}

/// Splits the checksum off a text that has the form of a token.
fn split(text: &str) -> Option<(&str, &str)> {
    if text.len() != TOKEN_BYTES {
        return None;
    }
    let (id, secret) = text.strip_prefix(PREFIX)?.split_at_checked(ID_CHARS)?;
    let has_form = is_id(id) && secret.strip_prefix('_')?.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.split_at_checked(TOKEN_BYTES - CHECK_CHARS).filter(|_| has_form)
}

/// Returns whether a token can have this id.
pub(super) fn is_id(id: &str) -> bool {
    id.len() == ID_CHARS && id.bytes().all(|byte| BASE_36.contains(&byte))
}

fn id(number: u64) -> String {
    let base = BASE_36.len() as u64;
    let (mut id, mut rest) = (String::with_capacity(ID_CHARS), number);
    for place in 0..ID_CHARS {
        let radix = if place == 0 { LETTERS } else { base };
        id.push(symbol(BASE_36, rest % radix));
        rest /= radix;
    }
    id
}

/// Returns the checksum of the first part of a token.
fn check(covered: &[u8]) -> [u8; CHECK_CHARS] {
    let base = BASE_62.len() as u64;
    let (mut digits, mut rest) = ([b'0'; CHECK_CHARS], u64::from(crc32fast::hash(covered)));
    for digit in digits.iter_mut().rev() {
        *digit = digit_of(BASE_62, rest % base);
        rest /= base;
    }
    digits
}

/// Returns a big-endian number in base 62, with leading zeros.
fn base_62(bytes: &[u8; SECRET_BYTES]) -> String {
    let base = BASE_62.len() as u64;
    let (mut number, mut digits) = (*bytes, [b'0'; SECRET_CHARS]);
    for digit in digits.iter_mut().rev() {
        // A long division: the remainder is less than the base, so each quotient fits into a byte.
        let mut remainder = 0_u64;
        for byte in &mut number {
            let value = (remainder << 8) | u64::from(*byte);
            *byte = u8::try_from(value / base).unwrap_or(u8::MAX);
            remainder = value % base;
        }
        *digit = digit_of(BASE_62, remainder);
    }
    digits.into_iter().map(char::from).collect()
}

fn symbol(alphabet: &[u8], value: u64) -> char {
    char::from(digit_of(alphabet, value))
}

/// Returns the digit for a value, which is less than the length of the alphabet.
fn digit_of(alphabet: &[u8], value: u64) -> u8 {
    let digit = usize::try_from(value).ok().and_then(|value| alphabet.get(value));
    digit.copied().unwrap_or(b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the checksum covers, of the token with the id of the number 0 and the secret 1.
    const KNOWN: &str = "aes1_aaaaaaaa_0000000000000000000000000000000000000000001";

    #[test]
    fn a_generated_token_is_read_back() {
        for _ in 0..100 {
            let token = Token::generate().unwrap();
            assert_eq!(token.text().len(), TOKEN_BYTES);
            let parts = parse(token.text()).unwrap();
            assert_eq!((parts.id, parts.hash), (token.id(), token.hash()));
            assert!(token.id().starts_with(|first: char| first.is_ascii_lowercase()), "{}", token.id());
            assert!(!format!("{token:?}").contains(token.text()));
        }
        let [one, other] = [Token::generate(), Token::generate()].map(Result::unwrap);
        assert_ne!(one.text(), other.text());
        assert_ne!(one.hash(), other.hash());
    }

    #[test]
    fn secret_and_checksum_are_numbers_in_base_62() {
        let mut one = [0; SECRET_BYTES];
        one[SECRET_BYTES - 1] = 1;
        let token = Token::of(0, &one);
        let (covered, found) = token.text().split_at(TOKEN_BYTES - CHECK_CHARS);
        assert_eq!(covered, KNOWN);
        let value = found.bytes().fold(0_u64, |value, digit| {
            value * 62 + BASE_62.iter().position(|known| *known == digit).unwrap() as u64
        });
        assert_eq!(value, u64::from(crc32fast::hash(KNOWN.as_bytes())));
        one[SECRET_BYTES - 1] = 62;
        assert!(base_62(&one).ends_with("0010"), "{}", base_62(&one));
        // The largest number needs all digits: 62^43 is more than 2^256.
        let largest = base_62(&[0xff; SECRET_BYTES]);
        assert!(largest.len() == SECRET_CHARS && !largest.starts_with('0'), "{largest}");
        // The checksum is the one that zlib and PNG have.
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn every_change_of_one_character_is_noticed() {
        let token = Token::of(17, &[7; SECRET_BYTES]);
        for at in 0..TOKEN_BYTES {
            for other in *b"0aZ_ \n\x00" {
                let mut changed = token.text().as_bytes().to_vec();
                if std::mem::replace(&mut changed[at], other) == other {
                    continue;
                }
                let changed = String::from_utf8(changed).unwrap();
                assert!(parse(&changed).is_err(), "{changed:?}");
            }
        }
        let mut mistyped = token.text().to_owned();
        let last = if mistyped.pop() == Some('x') { 'y' } else { 'x' };
        mistyped.push(last);
        assert_eq!(parse(&mistyped), Err(TokenError::WrongCheck));
    }

    #[test]
    fn what_has_another_form_is_malformed() {
        let token = Token::of(17, &[7; SECRET_BYTES]);
        let text = token.text();
        let shorter = &text[..TOKEN_BYTES - 1];
        let upper = text.replacen(token.id(), &token.id().to_uppercase(), 1);
        for malformed in [
            "",
            "aes1_",
            shorter,
            &format!("{text}0"),
            &format!(" {shorter}"),
            &text.replacen("aes1", "aes2", 1),
            &"é".repeat(TOKEN_BYTES / 2),
            &format!("aes1_aaaaaaa{}", "é".repeat((TOKEN_BYTES - 12) / 2)),
            &upper,
        ] {
            assert_eq!(parse(malformed), Err(TokenError::Malformed), "{malformed:?}");
        }
    }

    #[test]
    fn a_hash_has_one_spelling_and_is_not_shown_by_debug_output() {
        let hash = TokenHash::of("x");
        let text = hash.to_string();
        assert_eq!(text, "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
        assert_eq!(TokenHash::parse(&text), Some(hash));
        let hex = &text[SHA256.len()..];
        for other in ["", hex, &text[..70], &format!("{text}0"), &format!("sha256:{}", hex.to_uppercase())] {
            assert_eq!(TokenHash::parse(other), None, "{other}");
        }
        assert!(!format!("{hash:?}").contains(&hex[..8]));
    }
}
