use std::collections::BTreeSet;

use super::*;
use crate::access::{NAME_BYTES_MAX, Right, Rights, Token};

fn refused(yaml: &str) -> String {
    match read(yaml) {
        Ok(_) => panic!("accepted: {yaml}"),
        Err(error) => error.to_string(),
    }
}

fn with_token(token: &Token) -> String {
    format!("{{ id: {}, hash: \"{}\" }}", token.id(), token.hash())
}

fn set(texts: &[&str]) -> Option<BTreeSet<String>> {
    Some(texts.iter().map(|text| (*text).to_owned()).collect())
}

#[test]
fn roles_and_identities_mean_what_they_state() {
    let token = Token::generate().unwrap();
    let yaml = format!(
        "roles:\n  arena: {{ may: [append, load], prefixes: [\"arena-\"], aggregate_types: [Room, Quest], \
         actors: [wizard], event_types: [Opened], shares: {{ share: 0.25, events_per_second: 100 }} }}\n  \
         silent: {{ may: [], actors: [] }}\n\
         identities:\n  a: {{ role: arena, tokens: [{}], shares: {{ types_max: 3, share: 1 }}, \
         event_types: [Closed] }}\n  b: {{ role: arena, certificate: \"spiffe://b\", uid: 998 }}\n  \
         c: {{ role: silent }}\n  d: {{ role: game, tokens: [] }}\n",
        with_token(&token)
    );
    let file = read(&yaml).unwrap();
    let [a, b, c, d] = file.identities.as_slice() else { panic!("{:?}", file.identities) };
    assert_eq!([&a.name, &b.name, &c.name, &d.name], ["a", "b", "c", "d"]);
    assert_eq!(a.stated.rights, Rights::NONE.with(Right::Append).with(Right::Load));
    assert_eq!(a.stated.scope.prefixes.as_deref(), Some(&["arena-".to_owned()][..]));
    assert_eq!(a.stated.scope.aggregate_types, set(&["Quest", "Room"]));
    assert_eq!(a.stated.actors, set(&["wizard"]));
    let [known] = a.tokens.as_slice() else { panic!("{:?}", a.tokens) };
    assert_eq!((known.id.as_str(), known.hash), (token.id(), token.hash()));
    // What an identity states itself takes precedence over what its role states.
    assert_eq!((&a.stated.event_types, &b.stated.event_types), (&set(&["Closed"]), &set(&["Opened"])));
    let of_role = Shares { share: 0.25, events_per_second: Some(100.0), ..Shares::default() };
    assert_eq!(b.stated.shares, of_role);
    assert_eq!(a.stated.shares, Shares { share: 1.0, types_max: Some(3), ..of_role });
    assert_eq!((b.certificate.as_deref(), b.uid), (Some("spiffe://b"), Some(998)));
    assert_eq!((c.stated.rights, &c.stated.actors), (Rights::NONE, &set(&[])));
    assert_eq!(d.role, "game");
    assert!(d.stated.rights.has(Right::SeeSecrets) && d.tokens.is_empty());
}

#[test]
fn a_file_without_identities_removes_all_only_if_it_says_so() {
    for yaml in ["identities: {}\n", "roles:\nidentities: {}\n"] {
        assert!(read(yaml).unwrap().identities.is_empty(), "{yaml}");
    }
    for yaml in ["", "# all\n", "roles: {}\n", "{}"] {
        assert_eq!(refused(yaml), "identities: missing", "{yaml}");
    }
}

#[test]
fn an_error_names_the_place() {
    let [one, other] = [Token::generate(), Token::generate()].map(|token| with_token(&token.unwrap()));
    let (hash, id) = (Token::generate().unwrap().hash().to_string(), "abcdefgh");
    let identity = |text: &str| format!("identities:\n  a: {{ role: game, {text} }}\n");
    let role = |text: &str| format!("roles:\n  r: {{ {text} }}\nidentities: {{}}\n");
    let tokens = |text: &str| identity(&format!("tokens: [{text}]"));
    for (yaml, expected) in [
        ("[]".to_owned(), "not a mapping with the key identities"),
        ("identities:\n".to_owned(), "identities: expected a mapping of names to identities, or {}"),
        ("users:\nidentities: {}\n".to_owned(), "users: unknown key; known keys: roles, identities"),
        ("identities: []\n".to_owned(), "identities: expected a mapping"),
        ("identities:\n  a b: {}\n".to_owned(), "identities, entry 1: expected a name"),
        ("identities:\n  7: {}\n".to_owned(), "identities, entry 1: expected a name"),
        ("identities:\n  a:\n".to_owned(), "identities.a.role: missing"),
        ("identities:\n  a: { role: hero }\n".to_owned(), "identities.a.role: no such role: hero; "),
        ("identities:\n  anonymous: { role: game }\n".to_owned(), "identities.anonymous: this name is"),
        ("roles:\n  game: { may: [] }\nidentities: {}\n".to_owned(), "roles.game: this role is ready-made"),
        (identity("colour: red"), "identities.a.colour: unknown key; known keys: role, tokens, "),
        (identity("uid: -1"), "identities.a.uid: expected the number of a user"),
        (identity("uid: 4294967296"), "identities.a.uid: expected the number of a user"),
        (identity("certificate: \"\""), "identities.a.certificate: expected a text that is not empty"),
        (identity("certificate:"), "identities.a.certificate: expected a text that is not empty"),
        (identity("prefixes: [x]"), "identities.a.prefixes: unknown key"),
        (role("may: [load, fly]"), "roles.r.may[1]: expected a right: append, "),
        (role("may: load"), "roles.r.may: expected a list"),
        (role("prefixes: [x]"), "roles.r.may: missing"),
        (role("may: [], prefixes: [\"\"]"), "roles.r.prefixes[0]: expected a text that is not empty"),
        (role("may: [], actors: wizard"), "roles.r.actors: expected a list"),
        (role("may: [], shares: { share: 0 }"), "roles.r.shares.share: expected a number greater than 0, at"),
        (role("may: [], shares: { share: 1.5 }"), "roles.r.shares.share: expected"),
        (role("may: [], shares: { share: .nan }"), "roles.r.shares.share: expected"),
        (
            role("may: [], shares: { appends_per_second: .inf }"),
            "roles.r.shares.appends_per_second: expected a number greater than 0",
        ),
        (role("may: [], shares: { types_max: 1.5 }"), "roles.r.shares.types_max: expected a whole number"),
        (role("may: [], shares: { bytes: 1 }"), "roles.r.shares.bytes: unknown key"),
        (tokens("{}"), "identities.a.tokens[0].id: missing"),
        (tokens("{ id: 12345678 }"), "identities.a.tokens[0].id: expected the id of a token in quotes"),
        (tokens(&format!("{{ id: {id} }}")), "identities.a.tokens[0].hash: missing"),
        (tokens(&format!("{{ id: {id}, hash: x }}")), "identities.a.tokens[0].hash: expected sha256: "),
        (
            tokens(&format!("{one}, {{ id: {id}, hash: \"{hash}\", expires: tomorrow }}")),
            "identities.a.tokens[1].expires: expected an RFC 3339 time",
        ),
        (
            tokens(&format!("{{ id: {id}, hash: \"{hash}\", not_before: 2027-01-01, expires: 2027-01-01 }}")),
            "identities.a.tokens[0]: expires is not later than not_before",
        ),
        (
            tokens(&format!("{one}, {other}, {one}")),
            "identities.a.tokens[2].id: has the same value as identities.a.tokens[0].id",
        ),
    ] {
        let error = refused(&yaml);
        assert!(error.starts_with(expected), "{yaml}: {error}");
    }
}

#[test]
fn no_two_identities_have_the_same_credential() {
    let token = Token::generate().unwrap();
    let hash = token.hash();
    for (key, one, other) in [
        ("certificate", "certificate: x".to_owned(), "certificate: x".to_owned()),
        ("uid", "uid: 1".to_owned(), "uid: 1".to_owned()),
        (
            "tokens[0].hash",
            format!("tokens: [{{ id: aaaaaaaa, hash: \"{hash}\" }}]"),
            format!("tokens: [{{ id: bbbbbbbb, hash: \"{hash}\" }}]"),
        ),
    ] {
        let yaml = format!("identities:\n  a: {{ role: game, {one} }}\n  b: {{ role: game, {other} }}\n");
        assert_eq!(refused(&yaml), format!("identities.b.{key}: has the same value as identities.a.{key}"));
    }
}

#[test]
fn no_error_shows_a_token_or_a_hash_wherever_it_stands() {
    let token = Token::generate().unwrap();
    let hash = token.hash().to_string();
    let hex = &hash["sha256:".len()..];
    for secret in [token.text(), hash.as_str(), hex] {
        let secret_of = |yaml: &str| yaml.replace("SECRET", secret);
        for yaml in [
            "SECRET",
            "\"SECRET\": 1\nidentities: {}\n",
            "identities: SECRET",
            "identities: \"SECRET",
            "identities: [SECRET\n",
            "identities: *SECRET\n",
            "identities: !SECRET {}\n",
            "identities: !!int \"SECRET\"\n",
            "identities:\n  \"SECRET\": {}\n",
            "identities:\n  \"SECRET\": {}\n  \"SECRET\": {}\n",
            "identities:\n  a: { role: \"SECRET\" }\n",
            "identities:\n  a: { \"SECRET\": 1 }\n",
            "identities:\n  a: { role: game, tokens: \"SECRET\" }\n",
            "identities:\n  a: { role: game, tokens: [\"SECRET\"] }\n",
            "identities:\n  a: { role: game, tokens: [{ \"SECRET\": 1 }] }\n",
            "identities:\n  a: { role: game, tokens: [{ id: \"SECRET\" }] }\n",
            "identities:\n  a: { role: game, tokens: [{ id: abcdefgh, hash: \"SECRET0\" }] }\n",
            "identities:\n  a: { role: game, certificate: [\"SECRET\"] }\n",
            "roles:\n  r: { may: [\"SECRET\"] }\nidentities: {}\n",
            "roles:\n  \"SECRET\": { may: [] }\nidentities: {}\n",
            "roles:\n  r: { may: [], shares: { \"SECRET\": 1, share: \"SECRET\" } }\nidentities: {}\n",
        ] {
            let error = read(&secret_of(yaml)).unwrap_err();
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains(&secret[10..30]), "{yaml}: {shown}");
            }
        }
    }
}

#[test]
fn syntax_errors_and_duplicate_keys_name_a_line() {
    for yaml in ["identities: [", "identities:\n  a: {\n", "identities:\nidentities:\n"] {
        let error = refused(yaml);
        assert!(error.contains("line "), "{error}");
    }
    assert!(refused("identities:\nidentities:\n").starts_with("duplicate key"));
}

#[test]
fn a_time_is_an_rfc_3339_time_or_a_date() {
    for (text, seconds) in [
        ("2027-03-01", Some(1_803_859_200)),
        ("2027-03-01T00:00:00Z", Some(1_803_859_200)),
        ("2027-03-01T02:00:00+02:00", Some(1_803_859_200)),
        ("2027-3-1", None),
        ("2027-03-1x", None),
        ("2027/03/01", None),
        ("2027-13-01", None),
        ("2027-02-30", None),
        ("2027-03-01T00:00:00", None),
        ("", None),
        ("90d", None),
    ] {
        assert_eq!(parse_time(text).map(Timestamp::seconds), seconds, "{text}");
    }
}

#[test]
fn what_is_expected_names_all_rights_and_the_length_of_names() {
    for right in Right::ALL {
        assert!(A_RIGHT.contains(right.name()), "{}", right.name());
    }
    let error = refused("identities:\n  \"\": {}\n");
    assert!(error.contains(&format!("1 to {NAME_BYTES_MAX} ")), "{error}");
}
