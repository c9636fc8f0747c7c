//! Numbers, hashes and bytes in the lines of a note. Only one spelling of each is accepted.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::merkle::Hash;

/// Encodes bytes as base64.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes base64 with padding, and without bits that are not used.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Decodes a hash from base64.
pub(crate) fn decode_hash(text: &str) -> Option<Hash> {
    decode(text)?.try_into().ok()
}

/// Parses a decimal number without leading zeros and without a sign.
pub(crate) fn decode_decimal(text: &str) -> Option<u64> {
    let is_canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_canonical)
}

/// Returns whether a note must not contain the character outside of the ends of its lines.
pub(crate) fn is_control(character: char) -> bool {
    character < ' '
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling() {
        for number in [0, 1, 10, 20_852_163, u64::MAX] {
            assert_eq!(decode_decimal(&number.to_string()), Some(number));
        }
        for text in ["", "+1", "-0", "-1", "00", "01", " 1", "1 ", "0x1", "1_0", "18446744073709551616", "١"]
        {
            assert_eq!(decode_decimal(text), None, "{text}");
        }
    }

    #[test]
    fn base64_has_one_spelling() {
        for bytes in [&b""[..], b"a", b"ab", b"abc", &[0xff; 32]] {
            assert_eq!(decode(&encode(bytes)).as_deref(), Some(bytes));
        }
        // No padding, too much of it, bits that are not used, another alphabet, spaces, lines.
        for text in ["YQ", "YQ=", "YQ===", "YR==", "_w==", "YQ ==", "YQ==\n", "YWJj\nYWJj", "YQ==YQ=="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_hash_has_32_bytes() {
        assert_eq!(decode_hash(&encode(&[7; 32])), Some([7; 32]));
        for length in [0, 31, 33] {
            assert_eq!(decode_hash(&encode(&vec![7; length])), None, "{length} bytes");
        }
    }
}
