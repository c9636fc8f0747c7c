use super::*;
use crate::access::{Right, Token};

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn now() -> SystemTime {
    at(NOW)
}

fn token() -> Token {
    Token::generate().unwrap()
}

/// Returns the entry of a token in the list of an identity.
fn entry(token: &Token, more: &str) -> String {
    format!("{{ id: {}, hash: \"{}\"{more} }}", token.id(), token.hash())
}

fn policy(yaml: &str, settings: &AccessSettings) -> Policy {
    Policy::parse(yaml, settings).unwrap()
}

fn bearer(text: &str) -> Offer<'_> {
    Offer { token: Some(text), is_protected: true, ..Offer::default() }
}

/// Returns the name of the identity, or why there is none.
fn name(policy: &Policy, offer: Offer<'_>, now: SystemTime) -> Result<String, Denied> {
    policy.identify(offer, now).map(|(identity, _)| identity.name.to_string())
}

#[test]
fn while_access_control_is_off_everybody_may_do_everything() {
    let off = Policy::off();
    assert!(off.is_off());
    let wrong = Offer { token: Some("x"), certificate: Some("y"), uid: Some(1), is_protected: false };
    for offer in [Offer::default(), wrong] {
        let (identity, credential) = off.identify(offer, now()).unwrap();
        assert_eq!((&*identity.name, identity.rights, credential), ("", Rights::ALL, Credential::Off));
        assert!(identity.scope.is_unrestricted() && identity.actors.is_none());
    }
    assert_eq!(off.identity_of(&Credential::Off, now()).unwrap().rights, Rights::ALL);
    assert_eq!(off.identities().count(), 1);
    assert!(Policy::without_file(&AccessSettings::default()).unwrap().is_off());
    let on = policy("identities: {}\n", &AccessSettings::default());
    assert!(!on.is_off());
    assert_eq!(on.identity_of(&Credential::Off, now()), Err(Denied::NoCredentials));
}

#[test]
fn a_token_names_its_identity_and_a_changed_one_nobody() {
    let (arena, other) = (token(), token());
    let yaml = format!(
        "identities:\n  arena-1: {{ role: game, tokens: [{}] }}\n  b: {{ role: reader, tokens: [{}] }}\n",
        entry(&arena, ""),
        entry(&other, "")
    );
    let policy = policy(&yaml, &AccessSettings::default());
    let (identity, credential) = policy.identify(bearer(arena.text()), now()).unwrap();
    assert_eq!((&*identity.name, &*identity.role), ("arena-1", "game"));
    assert!(identity.rights.has(Right::Append) && !identity.rights.has(Right::Operate));
    assert_eq!(credential, Credential::Token { id: arena.id().into(), hash: arena.hash() });
    assert_eq!(policy.identity_of(&credential, now()), Ok(identity));
    assert_eq!(name(&policy, bearer(other.text()), now()).as_deref(), Ok("b"));

    let foreign = token();
    let mut mistyped = arena.text().to_owned();
    let last = if mistyped.pop() == Some('x') { 'y' } else { 'x' };
    mistyped.push(last);
    let unprotected = Offer { is_protected: false, ..bearer(arena.text()) };
    for (offer, denied) in [
        (bearer(foreign.text()), Denied::Unknown),
        (bearer(&mistyped), Denied::WrongCheck),
        (bearer(""), Denied::Malformed),
        (bearer("aes1_x"), Denied::Malformed),
        (unprotected, Denied::SentInClear),
        (Offer::default(), Denied::NoCredentials),
    ] {
        assert_eq!(name(&policy, offer, now()), Err(denied));
    }
    let gone = Credential::Token { id: foreign.id().into(), hash: foreign.hash() };
    assert_eq!(policy.identity_of(&gone, now()), Err(Denied::Unknown));
}

#[test]
fn several_tokens_of_one_identity_are_valid_for_their_times() {
    let (old, new) = (token(), token());
    let yaml = format!(
        "identities:\n  a:\n    role: reader\n    tokens:\n      - {}\n      - {}\n",
        entry(&old, ", expires: 2027-03-01"),
        entry(&new, ", not_before: \"2027-02-01T02:00:00+02:00\"")
    );
    let policy = policy(&yaml, &AccessSettings::default());
    let (from, until) = (1_801_440_000, 1_803_859_200);
    for (seconds, old_one, new_one) in [
        (from - 1, Ok("a"), Err(Denied::NotYetValid)),
        (from, Ok("a"), Ok("a")),
        (until - 1, Ok("a"), Ok("a")),
        (until, Err(Denied::Expired), Ok("a")),
    ] {
        let found = [&old, &new].map(|token| name(&policy, bearer(token.text()), at(seconds)));
        assert_eq!(found, [old_one, new_one].map(|expected| expected.map(str::to_owned)));
    }
    let credential = Credential::Token { id: old.id().into(), hash: old.hash() };
    assert!(policy.identity_of(&credential, at(until - 1)).is_ok());
    assert_eq!(policy.identity_of(&credential, at(until)), Err(Denied::Expired));
}

#[test]
fn tokens_in_clear_are_accepted_only_if_the_configuration_says_so() {
    let arena = token();
    let yaml = format!("identities:\n  a: {{ role: game, tokens: [{}] }}\n", entry(&arena, ""));
    let clear = Offer { is_protected: false, ..bearer(arena.text()) };
    for (allow_cleartext, expected) in [(false, Err(Denied::SentInClear)), (true, Ok("a".to_owned()))] {
        let policy = policy(&yaml, &AccessSettings { allow_cleartext, ..AccessSettings::default() });
        assert_eq!(name(&policy, clear, now()), expected);
        let warns = policy.describe().iter().any(|line| line.contains("unencrypted"));
        assert_eq!(warns, allow_cleartext);
    }
}

#[test]
fn a_token_takes_precedence_over_a_certificate_and_a_wrong_one_is_refused() {
    let arena = token();
    let yaml = format!(
        "identities:\n  a: {{ role: game, tokens: [{}] }}\n  \
         b: {{ role: reader, certificate: \"spiffe://b\" }}\n  \
         c: {{ role: monitor, uid: 998 }}\n",
        entry(&arena, "")
    );
    let certificate = |name| Offer { certificate: Some(name), is_protected: true, ..Offer::default() };
    let user = |uid| Offer { uid: Some(uid), is_protected: true, ..Offer::default() };
    let both = Offer { token: Some(arena.text()), ..certificate("spiffe://b") };
    let wrong = Offer { token: Some("x"), ..certificate("spiffe://b") };
    let anonymous = AccessSettings { anonymous: Some("monitor".to_owned()), ..AccessSettings::default() };
    for (settings, unmapped) in [(AccessSettings::default(), None), (anonymous, Some("anonymous"))] {
        let policy = policy(&yaml, &settings);
        let or_anonymous = |denied| unmapped.ok_or(denied);
        for (offer, expected) in [
            (both, Ok("a")),
            (wrong, Err(Denied::Malformed)),
            (certificate("spiffe://b"), Ok("b")),
            (certificate("spiffe://B"), or_anonymous(Denied::UnknownCertificate)),
            (user(998), Ok("c")),
            (user(0), or_anonymous(Denied::UnknownUser)),
            (Offer::default(), or_anonymous(Denied::NoCredentials)),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(name(&policy, offer, now()), expected, "{offer:?}");
            if let Ok((identity, credential)) = policy.identify(offer, now()) {
                assert_eq!(policy.identity_of(&credential, now()), Ok(identity));
            }
        }
        let gone = [
            (Credential::Certificate("spiffe://x".into()), Denied::UnknownCertificate),
            (Credential::Uid(7), Denied::UnknownUser),
        ];
        for (credential, denied) in gone {
            assert_eq!(policy.identity_of(&credential, now()), Err(denied));
        }
        assert_eq!(policy.identities().count(), 3 + usize::from(unmapped.is_some()));
    }
}

#[test]
fn anonymous_callers_have_a_role_of_the_file_or_a_ready_made_one() {
    let settings =
        |role: &str| AccessSettings { anonymous: Some(role.to_owned()), ..AccessSettings::default() };
    let alone = Policy::without_file(&settings("admin")).unwrap();
    assert!(!alone.is_off());
    let (identity, credential) = alone.identify(Offer::default(), now()).unwrap();
    assert_eq!((&*identity.name, identity.rights), ("anonymous", Rights::ALL));
    assert_eq!(credential, Credential::Anonymous);
    assert_eq!(name(&alone, bearer(token().text()), now()), Err(Denied::Unknown));

    let yaml = "roles:\n  guest: { may: [stats], prefixes: [x-] }\nidentities: {}\n";
    let guests = policy(yaml, &settings("guest"));
    let (identity, _) = guests.identify(Offer::default(), now()).unwrap();
    assert!(identity.rights.has(Right::Stats) && !identity.scope.has_id("y"));
    for error in [
        Policy::without_file(&settings("guest")).unwrap_err(),
        Policy::parse("identities: {}\n", &settings("guest")).unwrap_err(),
    ] {
        assert!(error.to_string().starts_with("access.anonymous: no such role: guest"), "{error}");
    }
    let token = token();
    let error = Policy::without_file(&settings(token.text())).unwrap_err();
    assert!(error.to_string().starts_with("access.anonymous: no such role: ***"), "{error}");
    // Anonymous callers are no longer allowed.
    let none = policy(yaml, &AccessSettings::default());
    assert_eq!(none.identity_of(&Credential::Anonymous, now()), Err(Denied::NoCredentials));
}

#[test]
fn the_description_has_names_roles_and_times_and_no_hash() {
    let [one, two] = [token(), token()];
    let yaml = format!(
        "identities:\n  b: {{ role: reader }}\n  a:\n    role: game\n    certificate: \"x\\u001b[31m\"\n    \
         uid: 7\n    tokens: [{}, {}]\n",
        entry(&one, ", expires: 2027-03-01"),
        entry(&two, ", not_before: 2027-02-01")
    );
    let settings = AccessSettings { anonymous: Some("monitor".to_owned()), ..AccessSettings::default() };
    let policy = policy(&yaml, &settings);
    let mut tokens = [
        format!("token {} expires 2027-03-01T00:00:00Z", one.id()),
        format!("token {} is valid from 2027-02-01T00:00:00Z and does not expire", two.id()),
    ];
    tokens.sort();
    let expected = [
        format!("identity a: role game; {}; certificate x\\u001b[31m; uid 7", tokens.join("; ")),
        "identity b: role reader; no credentials".to_owned(),
        "callers without credentials: role monitor".to_owned(),
    ];
    assert_eq!(policy.describe(), expected);
    for shown in [policy.describe().join("\n"), format!("{policy:?}")] {
        assert!(!shown.contains("sha256:") && !shown.contains(&one.hash().to_string()[7..]), "{shown}");
    }
    assert_eq!(Policy::off().describe(), ["access control is off: every caller may do everything"]);
}

#[test]
fn a_file_is_read_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.yml");
    let settings = AccessSettings::default();
    assert!(Policy::load(None, &settings).unwrap().is_off());
    let load = || Policy::load(Some(&path), &settings);
    assert!(matches!(load(), Err(LoadError::Unreadable { .. })));
    std::fs::write(&path, "identities:\n  a: { role: reader, uid: 1 }\n").unwrap();
    assert_eq!(load().unwrap().identities().count(), 1);
    std::fs::write(&path, b"identities: {}\n# \xff").unwrap();
    let error = load().unwrap_err();
    assert!(
        matches!(&error, LoadError::Unreadable { source, .. } if source.kind() == io::ErrorKind::InvalidData)
    );
    let large = format!("identities: {{}}\n#{}\n", "x".repeat(FILE_BYTES_MAX));
    std::fs::write(&path, &large).unwrap();
    let too_large = PolicyError::TooLarge { bytes_max: FILE_BYTES_MAX };
    let error = load().unwrap_err();
    assert!(matches!(&error, LoadError::Invalid { source, .. } if *source == too_large), "{error}");
    assert_eq!(Policy::parse(&large, &settings).unwrap_err(), too_large);
    std::fs::write(&path, "identities:\n  a: { role: nobody }\n").unwrap();
    let error = load().unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()) && error.contains("identities.a.role"), "{error}");
}

#[test]
fn times_before_1970_and_far_away_are_compared() {
    assert!(timestamp(UNIX_EPOCH - Duration::from_secs(1)) < timestamp(UNIX_EPOCH));
    assert_eq!(timestamp(UNIX_EPOCH).seconds(), 0);
    assert_eq!(timestamp(now()).seconds(), i64::try_from(NOW).unwrap());
    assert!(timestamp(at(1 << 60)) > timestamp(now()));
}

#[test]
fn the_example_of_the_configuration_is_valid_without_its_comment_signs() {
    let example = include_str!("../../../conf/access.yml");
    let is_text = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let texts: Vec<&str> = example.lines().filter(is_text).collect();
    assert_eq!(texts, ["identities: {}"]);
    assert_eq!(policy(example, &AccessSettings::default()).identities().count(), 0);
    // Each section ends at a line without text.
    let mut yaml = String::new();
    let mut in_section = false;
    for line in example.lines() {
        let text = line.strip_prefix("# ").unwrap_or_default();
        in_section = text == "roles:" || text == "identities:" || in_section && !text.is_empty();
        if in_section {
            yaml.push_str(text);
            yaml.push('\n');
        }
    }
    for _ in 0..3 {
        yaml = yaml.replacen("sha256:…", &token().hash().to_string(), 1);
    }
    let policy = policy(&yaml, &AccessSettings::default());
    let names: Vec<_> = policy.identities().map(|identity| identity.name.to_string()).collect();
    assert_eq!(names, ["arena-1", "backup", "grafana"]);
    let arena = policy.identities().next().unwrap();
    assert_eq!((arena.shares.share, arena.shares.types_max), (0.25, Some(500)));
}

#[test]
fn an_identity_without_others_is_held_to_no_share() {
    let share = |yaml: &str, anonymous: Option<&str>| {
        let settings =
            AccessSettings { anonymous: anonymous.map(str::to_owned), ..AccessSettings::default() };
        policy(yaml, &settings).identities().next().unwrap().shares.share
    };
    let (alone, two) =
        ("identities: { a: { role: game } }", "identities: { a: { role: game }, b: { role: game } }");
    assert_eq!((share(alone, None), share(two, None), share(alone, Some("reader"))), (1.0, 0.5, 0.5));
    assert_eq!(share("identities: { a: { role: game, shares: { share: 0.3 } } }", None), 0.3);
}

#[test]
fn anonymous_callers_that_may_write_beside_named_ones_are_noticed() {
    for (yaml, role, noticed) in [
        ("identities: { a: { role: game } }", "admin", true),
        ("identities: { a: { role: game } }", "builder", true),
        ("identities: { a: { role: game } }", "reader", false),
        ("identities: {}", "admin", false),
    ] {
        let settings = AccessSettings { anonymous: Some(role.to_owned()), ..AccessSettings::default() };
        assert_eq!(policy(yaml, &settings).warnings(&settings).len(), usize::from(noticed), "{yaml} {role}");
    }
}

#[test]
fn identities_that_nobody_can_prove_are_noticed() {
    let yaml = "identities: { a: { role: game, certificate: a.example }, b: { role: game, uid: 998 } }";
    for (client_certificates, unix_socket, missing) in [
        (true, true, vec![]),
        (false, true, vec!["client_ca_file"]),
        (true, false, vec!["unix socket"]),
        (false, false, vec!["client_ca_file", "unix socket"]),
    ] {
        let settings = AccessSettings { client_certificates, unix_socket, ..AccessSettings::default() };
        let warnings = policy(yaml, &settings).warnings(&settings);
        assert_eq!(warnings.len(), missing.len(), "{warnings:?}");
        assert!(warnings.iter().zip(missing).all(|(warning, part)| warning.contains(part)), "{warnings:?}");
    }
    let settings = AccessSettings::default();
    assert!(policy("identities: { a: { role: game } }", &settings).warnings(&settings).is_empty());
}
