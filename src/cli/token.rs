//! `token`: makes tokens, and says whose a token is.
//!
//! A token is printed once, when it is made, and read from standard input. It is never an argument:
//! other users of the machine can see those.

use std::{
    io::{BufRead, BufReader, Read, stdin},
    process::ExitCode,
    str::FromStr,
    time::{Duration, SystemTime},
};

use clap::Subcommand;

use super::{
    Error, UsageError,
    client::{print, print_exactly},
    report,
};
use crate::{
    access::{
        ANONYMOUS, Credential, Denied, NAME_BYTES_MAX, NoRandomNumbers, Offer, Policy, Token, is_name,
        parse_time, token,
    },
    config::Config,
    event::{Timestamp, time},
    server::settings,
};

/// The line that is read is not longer.
const LINE_BYTES_MAX: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token. Prints it once, and then the line for the file access.file. Needs no
    /// configuration
    New {
        /// Name of the identity
        #[arg(value_parser = parse_identity)]
        name: String,
        /// Role of the identity
        #[arg(long, value_parser = parse_name)]
        role: String,
        /// When the token expires: after a number of days or hours, for example 90d or 12h, or at a
        /// time, for example 2027-03-01 or 2027-03-01T10:00:00Z [default: never]
        #[arg(long, value_name = "TIME")]
        expires: Option<Expiry>,
    },
    /// Read a token from standard input and print whose it is
    Check,
}

/// When a token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    After(Duration),
    At(Timestamp),
}

/// Why a token cannot be made, or belongs to nobody. No text shows it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenCommandError {
    #[error(transparent)]
    NoRandomNumbers(#[from] NoRandomNumbers),
    #[error("access control is off: neither access.file nor access.anonymous is set")]
    Off,
    #[error("the token would have expired already")]
    Expired,
    #[error("{}{denied}", id.as_deref().map(|id| format!("token {id}: ")).unwrap_or_default())]
    Denied { id: Option<String>, denied: Denied },
}

impl FromStr for Expiry {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected a number of days or hours, for example 90d or 12h, or a time, for \
         example 2027-03-01 or 2027-03-01T10:00:00Z";
        const HOURS_MAX: u64 = 24 * 365 * 1000;
        let hours = match (text.strip_suffix('d'), text.strip_suffix('h')) {
            (Some(days), _) => days.parse::<u64>().ok().and_then(|days| days.checked_mul(24)),
            (_, Some(hours)) => hours.parse::<u64>().ok(),
            (None, None) => return parse_time(text).map(Self::At).ok_or(FORM),
        };
        let hours = hours.filter(|hours| (1..=HOURS_MAX).contains(hours)).ok_or(FORM)?;
        Ok(Self::After(Duration::from_secs(hours.saturating_mul(3600))))
    }
}

impl Expiry {
    /// Returns the time, in whole seconds.
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::After(duration) => {
                let nanos = i128::from(now.seconds()).saturating_mul(1_000_000_000);
                let after = i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
                Timestamp::from_nanos_since_1970(nanos.saturating_add(after))
            }
        }
    }
}

/// Makes a token.
pub(super) fn make(name: &str, role: &str, expires: Option<Expiry>) -> ExitCode {
    let made = Token::generate().map_err(|error| Error::Token(error.into())).and_then(|token| {
        let now = Timestamp::now();
        let expires = expires.map(|expires| expires.at(now));
        if expires.is_some_and(|expires| expires <= now) {
            return Err(Error::Token(TokenCommandError::Expired));
        }
        print_exactly(&format!("{}\n{}\n", token.text(), line(name, role, &token, expires)))
    });
    ended(made)
}

/// Reads a token from standard input, and prints whose it is.
pub(super) fn check(config: &Config) -> ExitCode {
    ended(policy(config).map_err(Error::Usage).and_then(|policy| {
        let mut line = String::new();
        BufReader::new(stdin().lock().take(LINE_BYTES_MAX)).read_line(&mut line).map_err(Error::Io)?;
        print(&owner(&policy, line.trim(), SystemTime::now())?)
    }))
}

/// Returns what the configuration says about access.
///
/// # Errors
/// Returns an error if the file cannot be read, or is not valid.
pub(super) fn policy(config: &Config) -> Result<Policy, UsageError> {
    Ok(Policy::load(config.access.file.as_deref(), &settings::access(config))?)
}

fn ended(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Returns the line that gives an identity a token, for the section `identities`.
fn line(name: &str, role: &str, token: &Token, expires: Option<Timestamp>) -> String {
    let (name, role, id, hash) = (in_yaml(name), in_yaml(role), token.id(), token.hash());
    let expires = expires.map(|at| format!(", expires: \"{}\"", time::format(at))).unwrap_or_default();
    format!("  {name}: {{ role: {role}, tokens: [{{ id: {id}, hash: \"{hash}\"{expires} }}] }}")
}

/// Returns a name in quotes if YAML would read something else than a text.
fn in_yaml(name: &str) -> String {
    let is_text = name.starts_with(|first: char| first.is_ascii_alphabetic());
    let is_word = ["true", "false", "null"].iter().any(|word| name.eq_ignore_ascii_case(word));
    if is_text && !is_word { name.to_owned() } else { format!("\"{name}\"") }
}

/// Says whose a token is.
fn owner(policy: &Policy, text: &str, now: SystemTime) -> Result<String, TokenCommandError> {
    if policy.is_off() {
        return Err(TokenCommandError::Off);
    }
    let offer = Offer { token: Some(text), is_protected: true, ..Offer::default() };
    let denied = |denied| {
        let id = token::parse(text).ok().map(|parts| parts.id.to_owned());
        TokenCommandError::Denied { id, denied }
    };
    let (identity, credential) = policy.identify(offer, now).map_err(denied)?;
    let id = match &credential {
        Credential::Token { id, .. } => id,
        Credential::Off | Credential::Anonymous | Credential::Certificate(_) | Credential::Uid(_) => {
            return Err(denied(Denied::Unknown));
        }
    };
    Ok(format!("token {id} of {}, role {}", identity.name, identity.role))
}

/// Parses the name of an identity.
fn parse_identity(text: &str) -> Result<String, String> {
    if text == ANONYMOUS {
        return Err("callers without credentials have this name".to_owned());
    }
    parse_name(text)
}

/// Parses the name of an identity or a role.
fn parse_name(text: &str) -> Result<String, String> {
    let allowed = || format!("expected 1 to {NAME_BYTES_MAX} letters, digits, and characters of -_.@/");
    if is_name(text) { Ok(text.to_owned()) } else { Err(allowed()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AccessSettings;

    fn parse(yaml: &str) -> Policy {
        Policy::parse(yaml, &AccessSettings::default()).unwrap()
    }

    #[test]
    fn the_line_of_a_new_token_is_accepted_by_the_file() {
        let now = SystemTime::now();
        for name in ["arena-1", "7", "true", "NULL", "@tools", "-", "_", "1e3", "a.b/c", ".", "0x1f"] {
            let token = Token::generate().unwrap();
            let expires = Timestamp::new(4_000_000_000, 0);
            for expires in [None, expires] {
                let line = line(name, "game", &token, expires);
                let policy = parse(&format!("identities:\n{line}\n"));
                let said = owner(&policy, token.text(), now).unwrap();
                assert_eq!(said, format!("token {} of {name}, role game", token.id()));
                assert!(!line.contains(token.text()) && !said.contains("sha256"));
                let described = policy.describe().concat();
                assert_eq!(
                    described.contains("expires 2096-10-02T07:06:40Z"),
                    expires.is_some(),
                    "{described}"
                );
            }
        }
    }

    #[test]
    fn a_token_of_nobody_is_an_error_that_does_not_show_it() {
        let token = Token::generate().unwrap();
        let nobody = parse("identities: {}\n");
        let now = SystemTime::now();
        let cut = &token.text()[..50];
        for (text, expected) in
            [(token.text(), Denied::Unknown), (cut, Denied::Malformed), ("", Denied::Malformed)]
        {
            let error = owner(&nobody, text, now).unwrap_err();
            assert!(
                matches!(&error, TokenCommandError::Denied { denied, .. } if *denied == expected),
                "{error}"
            );
            assert!(text.is_empty() || !error.to_string().contains(text), "{error}");
            assert_eq!(error.to_string().contains(token.id()), expected == Denied::Unknown, "{error}");
        }
        assert!(matches!(owner(&Policy::off(), token.text(), now), Err(TokenCommandError::Off)));
    }

    #[test]
    fn a_token_expires_after_days_or_hours_or_at_a_time() {
        let now = Timestamp::new(1_800_000_000, 500).unwrap();
        for (text, seconds) in [
            ("90d", 1_807_776_000),
            ("12h", 1_800_043_200),
            ("2027-03-01", 1_803_859_200),
            ("2027-03-01T02:00:00+02:00", 1_803_859_200),
        ] {
            let at = text.parse::<Expiry>().unwrap().at(now);
            assert_eq!((at.seconds(), at.nanos()), (seconds, 0), "{text}");
        }
        for text in ["", "d", "0d", "-1d", "1.5d", "90", "90 d", "99999999999999999999d", "1m", "tomorrow"] {
            assert!(text.parse::<Expiry>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_on_the_command_line_is_one_of_the_file() {
        assert_eq!(parse_name("arena-1").as_deref(), Ok("arena-1"));
        assert!(parse_name("arena 1").unwrap_err().contains("40"));
    }
}
