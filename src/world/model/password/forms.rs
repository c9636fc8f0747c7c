//! The forms of password hashes that other game servers and web frameworks store.
//!
//! Each form is checked as a whole: its marker, the characters of the salt, and the exact length of
//! the hash. A text that only begins like one of them may be a password.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{is_bcrypt, is_crypt_character, is_phc};

/// The lengths of hashes in bytes.
const MD5_BYTES: usize = 16;
const SHA1_BYTES: usize = 20;
const SHA256_BYTES: usize = 32;
const SHA512_BYTES: usize = 64;

/// Returns whether a text has one of the forms.
pub(super) fn is_known(text: &str) -> bool {
    is_crypt(text) || is_pbkdf2(text) || is_phpass(text) || is_django(text) || is_ldap(text)
}

/// The forms of `crypt(3)` that have a marker: `$y$params$salt$hash` of yescrypt, `$1$salt$hash` of
/// MD5, `$5$[rounds=number$]salt$hash` of SHA-256, and `$6$…` of SHA-512. See [`is_bcrypt`] for
/// bcrypt.
fn is_crypt(text: &str) -> bool {
    let mut parts = text.split('$');
    let (Some(""), Some(method)) = (parts.next(), parts.next()) else { return false };
    let rest: Vec<&str> = parts.collect();
    let salted = |salt: &str, salt_max: usize, hash: &str, bytes: usize| {
        salt.len() <= salt_max && is_crypt_text(salt) && is_crypt_hash(hash, bytes)
    };
    match (method, rest.as_slice()) {
        ("y", [parameters, salt, hash]) => {
            const SALT_MAX: usize = 86;
            !parameters.is_empty() && is_crypt_text(parameters) && salted(salt, SALT_MAX, hash, SHA256_BYTES)
        }
        ("1", [salt, hash]) => salted(salt, 8, hash, MD5_BYTES),
        ("5", [salt, hash]) => salted(salt, 16, hash, SHA256_BYTES),
        ("5", [rounds, salt, hash]) => is_rounds(rounds) && salted(salt, 16, hash, SHA256_BYTES),
        ("6", [salt, hash]) => salted(salt, 16, hash, SHA512_BYTES),
        ("6", [rounds, salt, hash]) => is_rounds(rounds) && salted(salt, 16, hash, SHA512_BYTES),
        _ => false,
    }
}

/// `rounds=656000`
fn is_rounds(text: &str) -> bool {
    text.strip_prefix("rounds=").is_some_and(is_number)
}

/// `$pbkdf2-sha256$29000$salt$hash` and its relatives, as passlib writes them: base64 without
/// padding, and with a dot instead of the plus sign.
fn is_pbkdf2(text: &str) -> bool {
    let mut parts = text.split('$');
    let (Some(""), Some(method)) = (parts.next(), parts.next()) else { return false };
    let bytes = match method {
        "pbkdf2" => SHA1_BYTES,
        "pbkdf2-sha256" => SHA256_BYTES,
        "pbkdf2-sha512" => SHA512_BYTES,
        _ => return false,
    };
    let rest: Vec<&str> = parts.collect();
    let [rounds, salt, hash] = rest.as_slice() else { return false };
    is_number(rounds) && is_crypt_text(salt) && is_crypt_hash(hash, bytes)
}

/// `$P$` or `$H$`, a character for the number of rounds, a salt of 8 characters, and a hash of 22.
fn is_phpass(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("$P$").or_else(|| text.strip_prefix("$H$")) else { return false };
    // 2^7 to 2^30 rounds, in the alphabet `./0…9A…Za…z`.
    let rounds = rest.bytes().next();
    rounds.is_some_and(|rounds| matches!(rounds, b'5'..=b'9' | b'A'..=b'S'))
        && rest.len() == 1 + 8 + crypt_characters(MD5_BYTES)
        && is_crypt_text(rest)
}

/// `algorithm$…`, as Django writes it, and so Evennia does.
fn is_django(text: &str) -> bool {
    let Some((algorithm, rest)) = text.split_once('$') else { return false };
    let parts: Vec<&str> = rest.split('$').collect();
    match (algorithm, parts.as_slice()) {
        ("pbkdf2_sha256", [rounds, salt, hash]) => {
            is_number(rounds) && is_salt(salt) && is_base64(hash, |bytes| bytes == SHA256_BYTES)
        }
        ("pbkdf2_sha1", [rounds, salt, hash]) => {
            is_number(rounds) && is_salt(salt) && is_base64(hash, |bytes| bytes == SHA1_BYTES)
        }
        ("scrypt", [work, salt, block, parallel, hash]) => {
            [work, block, parallel].into_iter().all(|number| is_number(number))
                && is_salt(salt)
                && is_base64(hash, |bytes| bytes == SHA512_BYTES)
        }
        ("argon2", ["argon2id" | "argon2i" | "argon2d", ..]) => is_phc(&format!("${rest}")),
        ("bcrypt" | "bcrypt_sha256", _) => is_bcrypt(rest),
        _ => false,
    }
}

/// `{SCHEME}` and the hash, as directories store it (RFC 2307). The salt follows the hash.
///
/// `{CRYPT}` has a form of `crypt(3)`. This is the only way to send a DES hash: its 13 characters
/// alone may just as well be a password of 13 characters, so they are refused.
fn is_ldap(text: &str) -> bool {
    let Some((scheme, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) else {
        return false;
    };
    /// At least the 32 bits that OpenLDAP's first version had.
    const SALT_MIN: usize = 4;
    const SALT_MAX: usize = 64;
    let salted = |hash: usize| move |bytes: usize| (hash + SALT_MIN..=hash + SALT_MAX).contains(&bytes);
    match scheme {
        "SHA" => is_base64(rest, |bytes| bytes == SHA1_BYTES),
        "SSHA" => is_base64(rest, salted(SHA1_BYTES)),
        "SSHA256" => is_base64(rest, salted(SHA256_BYTES)),
        "SSHA512" => is_base64(rest, salted(SHA512_BYTES)),
        "CRYPT" => is_des(rest) || is_crypt(rest) || is_bcrypt(rest),
        _ => false,
    }
}

/// Two characters of salt, and 64 bits of hash in 11 characters, so the last one has 4 bits.
fn is_des(text: &str) -> bool {
    const LAST: &[u8] = b".26AEIMQUYcgkosw";
    text.len() == 13 && is_crypt_text(text) && text.bytes().last().is_some_and(|last| LAST.contains(&last))
}

/// The salt of Django, which it draws from letters and digits.
fn is_salt(text: &str) -> bool {
    const SALT_MAX: usize = 64;
    (1..=SALT_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_number(text: &str) -> bool {
    const DIGITS_MAX: usize = 10;
    (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Base64 with padding, of a number of bytes.
fn is_base64(text: &str, has_length: impl Fn(usize) -> bool) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| has_length(bytes.len()))
}

fn is_crypt_text(text: &str) -> bool {
    text.bytes().all(is_crypt_character)
}

fn is_crypt_hash(text: &str, bytes: usize) -> bool {
    text.len() == crypt_characters(bytes) && is_crypt_text(text)
}

/// Returns the number of characters for a number of bytes, with 6 bits each and without padding.
const fn crypt_characters(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

#[cfg(test)]
mod tests {
    use super::super::PasswordHash;

    /// Hashes of `swordfish`, as the programs named write them, and two published ones.
    const HASHES: &[&str] = &[
        // libxcrypt
        "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$TuYUAe2Rgyv0ovKGwYafIYPk72RaeXulr0zFf50b7J9",
        "$y$j75$$pxbiUEptbGN66/nOIArFARZEfxITDHpHcNN8dLmNvr0",
        "$1$abcdefgh$yyGbRQZVDnToZkGA5MzNJ1",
        "$1$ab$2q84o9ZFt9CqxpNpjkUV00",
        "$5$saltstring$6CmRIKiD2A.tHRTz5UUX.NOBTXYRFXO3zGSu7CO/kT7",
        "$5$rounds=5000$saltstring$6CmRIKiD2A.tHRTz5UUX.NOBTXYRFXO3zGSu7CO/kT7",
        "$6$saltstring$L2of.QHEyShkEGrKtIsIZ85vN2UxfBB4Fhu2yb0duBAm6qAiljcYaf358n/38bcASFfpU37SW.CynuEXbu5az1",
        "$6$rounds=656000$salt$U3vSfzNgXWWmirYFYXTz7MG7slU8aT6cae2WPu1rf2eBZ19iglaOLyJxX5zR.uj3WL2G0kP9DswxBjy6YQeZW.",
        "$2y$10$abcdefghijklmnopqrstuuivHRne1b8fIlcxc8Qcz3debdq6Vefzy",
        // Django and Evennia
        "pbkdf2_sha256$870000$seasalt2y1MxJv0Wzzkq5$aCsIm3F9mX6LeUnwwFWgVNWpcFelTC3rGZbPTTBO1r0=",
        "pbkdf2_sha256$10000$seasalt$nWxUTzNihqiWhKcPhu9OWvapDmQeWkpfL2WCm+ZE1VI=",
        "pbkdf2_sha1$10000$seasalt$ARYLpmTlG/AYhfZPHErBIiWcj3k=",
        "scrypt$16384$seasalt$8$1$P0yMaV96pm+RmXW/5ikJvOAD2kYGHNn19I2TH3hA8dmDE1gwG4dk8ZnCHTFDUYljAepR8V7HHLjjop4ioey78A==",
        "argon2$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b27cWPtkPpN/xnIDdpALw3sCx8",
        "bcrypt_sha256$$2b$12$abcdefghijklmnopqrstuu1PvRg0.Xyg6oVPPIWZeOuVS73b1.8cm",
        "bcrypt$$2b$12$abcdefghijklmnopqrstuuhG0JL7bNhGASFeMcKdnmL3QDve8pCua",
        // passlib
        "$pbkdf2-sha256$29000$AAECAwQFBgcICQoLDA0ODw$315TcWTE1B8NH7eb8FnP0ykAusA8RoSU5xmjzYxVSb0",
        "$pbkdf2-sha512$25000$AAECAwQFBgcICQoLDA0ODw$yvm61A12ld.Bni/SMddNjEkzjA1DffJlulSxBGxJDaCu3CSIaBkltcMtDpflB60DRVRwF81MAzHh8eBk27uZUQ",
        "$pbkdf2$131000$AAECAwQFBgcICQoLDA0ODw$ThXl7cBQv.LOOfnF8JcS6BT2PXA",
        // phpass, and its published test vector
        "$P$Babcdefgh16f3khFv8hUsYbs54jVCP0",
        "$H$9zyxwvutsKsj5YLy8nyBlEcMOPDihO1",
        "$P$9IQRaTwmfeRo7ud9Fh4E2PdI0S3r.L0",
        // OpenLDAP
        "{SSHA}T0seMoCrJzOmqD+u0xyhg8T+T2kBAgME",
        "{SSHA}vY2PcKYzmbFmdKBRwrcWI4JjS9sBAgMEBQYHCA==",
        "{SHA}T1cYHcqt6YBVXyzmdVykJfAGWL4=",
        "{SSHA256}7NJMzq+cslc8EX0FTq0osBsqXLX5aCoPzHBNq0gn3oZzYWx0c2FsdA==",
        "{SSHA512}9iLQTG6FiTNfzSDFA0EelEIksTCJM8H0NrkoMmguhoefU/rQ4RSYRc3F8xE3wmmvZ8IcJA7t5hXSwRGfHfeBAXNhbHRzYWx0",
        "{CRYPT}abIudS3O2Umpc",
        "{CRYPT}$1$ab$2q84o9ZFt9CqxpNpjkUV00",
        "{CRYPT}$2y$10$abcdefghijklmnopqrstuuivHRne1b8fIlcxc8Qcz3debdq6Vefzy",
    ];

    fn is_taken(text: &str) -> bool {
        PasswordHash::new(text).is_some()
    }

    #[test]
    fn hashes_of_game_servers_and_frameworks_are_taken() {
        for text in HASHES {
            assert!(is_taken(text), "{text}");
        }
    }

    /// A hash that is not complete may be a password.
    #[test]
    fn a_hash_with_a_character_too_few_or_too_many_is_refused() {
        for text in HASHES {
            let shorter = &text[..text.len() - 1];
            assert!(!is_taken(shorter) || is_unlimited(text), "{shorter}");
            let longer = format!("{text}a");
            assert!(!is_taken(&longer) || is_unlimited(text), "{longer}");
            assert!(!is_taken(&format!(" {text}")) && !is_taken(&format!("{text}\n")), "{text}");
            // Neither the marker alone nor the hash alone is a hash.
            let half = &text[..text.len() / 2];
            assert!(!is_taken(half) || super::is_phc(half), "{half}");
        }
    }

    /// Returns whether a text is also a PHC string, whose hash may have any length.
    fn is_unlimited(text: &str) -> bool {
        super::is_phc(text) || text.starts_with("argon2$")
    }

    #[test]
    fn what_could_be_a_password_of_the_form_is_refused() {
        for text in [
            // A DES hash without its scheme, and other texts of 13 characters.
            "abIudS3O2Umpc",
            "correcthorse1",
            "{CRYPT}correcthorse1",
            "{CRYPT}swordfish",
            "{CRYPT}",
            "{SSHA}swordfish",
            "{SSHA}T1cYHcqt6YBVXyzmdVykJfAGWL4=",
            "{SHA}T0seMoCrJzOmqD+u0xyhg8T+T2kBAgME",
            "{CLEARTEXT}swordfish",
            "{PLAIN}T1cYHcqt6YBVXyzmdVykJfAGWL4=",
            "{SSHA",
            "$y$j9T$swordfish",
            "$1$abcdefgh$swordfish",
            "$5$rounds=5000$saltstring$swordfish",
            "$P$swordfish",
            "$P$.abcdefgh16f3khFv8hUsYbs54jVCP0",
            "$P$",
            "$pbkdf2-sha256$29000$salt$swordfish",
            "$pbkdf2-sha256$many$AAECAwQFBgcICQoLDA0ODw$315TcWTE1B8NH7eb8FnP0ykAusA8RoSU5xmjzYxVSb0",
            "pbkdf2_sha256$870000$salt$swordfish",
            "pbkdf2_sha256$870000$$aCsIm3F9mX6LeUnwwFWgVNWpcFelTC3rGZbPTTBO1r0=",
            "pbkdf2_sha256$870000$sea salt$aCsIm3F9mX6LeUnwwFWgVNWpcFelTC3rGZbPTTBO1r0=",
            "pbkdf2_sha256$-1$seasalt$aCsIm3F9mX6LeUnwwFWgVNWpcFelTC3rGZbPTTBO1r0=",
            "pbkdf2_md5$10000$seasalt$ARYLpmTlG/AYhfZPHErBIiWcj3k=",
            "argon2$swordfish",
            "bcrypt$swordfish",
            "bcrypt_sha256$2b$12$abcdefghijklmnopqrstuu1PvRg0.Xyg6oVPPIWZeOuVS73b1.8cm",
            "scrypt$16384$seasalt$8$1$swordfish",
            "sha1$seasalt$swordfish",
            "!",
            "!XyzRandomUnusable",
            "migrated",
        ] {
            assert!(!is_taken(text), "{text}");
        }
    }
}
