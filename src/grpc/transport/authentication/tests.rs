//! Tests of the headers, of the callers that they name, and of what the access log says.

use std::{
    convert::Infallible,
    fs,
    future::{Ready, ready},
    net::SocketAddr,
    path::Path,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use tokio::{sync::watch, time::Instant};
use tonic::body::Body;
use tonic_types::StatusExt;
use tower::{Layer, Service};

use super::*;
use crate::{
    access::{AccessSettings, Credential, Policy, Right, token::Token},
    access_log::{AccessLogGuard, AccessLogSettings},
    grpc::transport::{
        byte_budget::ByteBudget,
        concurrency::{Admitted, Gate, note_arrival},
        connection_facts::ConnectionFacts,
    },
};

const LOAD: &str = "/aethyr.eventstore.v1.EventStoreService/LoadEvents";
const STATS: &str = "/aethyr.eventstore.v1.EventStoreService/Stats";
const REBUILD: &str = "/aethyr.world.v1.WorldService/RebuildWorldState";
const EXECUTE: &str = "/aethyr.world.v1.CommandService/ExecuteCommands";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const SPIFFE: &str = "spiffe://game.example/arena-1";

/// The identities: `arena-1` with a token and a certificate, `grafana` with a token, `tool` with a
/// user id, and `root` with a token.
struct Tokens {
    arena: Token,
    grafana: Token,
    root: Token,
}

impl Tokens {
    fn new() -> Self {
        Self {
            arena: Token::generate().unwrap(),
            grafana: Token::generate().unwrap(),
            root: Token::generate().unwrap(),
        }
    }

    fn policy(&self, anonymous: Option<&str>) -> Policy {
        let of =
            |token: &Token| format!("tokens: [{{ id: \"{}\", hash: \"{}\" }}]", token.id(), token.hash());
        let yaml = format!(
            "identities:\n  \
               arena-1: {{ role: game, {}, certificate: \"{SPIFFE}\" }}\n  \
               grafana: {{ role: monitor, {} }}\n  \
               tool: {{ role: reader, uid: 998 }}\n  \
               root: {{ role: admin, {} }}\n",
            of(&self.arena),
            of(&self.grafana),
            of(&self.root)
        );
        let settings =
            AccessSettings { anonymous: anonymous.map(str::to_owned), ..AccessSettings::default() };
        Policy::parse(&yaml, &settings).unwrap()
    }
}

fn authentication(policy: Policy) -> Authentication {
    Authentication::new(AccessControl::fixed(policy), ClientRegistry::new(), AccessLog::default())
}

fn peer(facts: ConnectionFacts) -> Peer {
    Peer::new(facts, Peer::default().client().clone())
}

/// A connection over TLS.
fn over_tls() -> Peer {
    let address = "203.0.113.7:40000".parse::<SocketAddr>().unwrap();
    peer(ConnectionFacts {
        address: Some(address),
        is_protected: true,
        is_tls: true,
        ..ConnectionFacts::default()
    })
}

fn with_certificate(name: Option<&str>) -> Peer {
    let facts = over_tls().facts().clone();
    peer(ConnectionFacts { certificate: name.map(Into::into), has_certificate: true, ..facts })
}

fn request(path: &str, headers: &[(&'static str, &[u8])]) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    request
}

fn with_token(path: &str, token: &str) -> Request<()> {
    request(path, &[("authorization", format!("Bearer {token}").as_bytes())])
}

/// The reason of the refusal, or the name of the caller.
fn outcome(authentication: &Authentication, request: &Request<()>, peer: &Peer) -> String {
    match authentication.authenticate(request, peer) {
        Ok(caller) => caller.principal.identity.name.to_string(),
        Err(Refused { status, .. }) => status.get_details_error_info().unwrap().reason,
    }
}

#[test]
fn one_field_with_the_scheme_bearer_is_a_token_and_all_else_is_malformed() {
    let field = |values: &[&[u8]]| {
        let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        offered_token(request(LOAD, &headers).headers()).map(|token| token.map(str::to_owned))
    };
    assert_eq!(field(&[]), Ok(None));
    for text in ["Bearer aes1_a", "bearer aes1_a", "BEARER aes1_a", "bEaReR   aes1_a"] {
        assert_eq!(field(&[text.as_bytes()]), Ok(Some("aes1_a".to_owned())), "{text}");
    }
    let malformed: [&[u8]; 19] = [
        b"",
        b" ",
        b"Bearer",
        b"Bearer ",
        b"Bearer    ",
        b"aes1_a",
        b"Beareraes1_a",
        b" Bearer aes1_a",
        b"Bearer aes1_a ",
        b"Bearer aes1_a aes1_b",
        b"Bearer aes1_a, Bearer aes1_b",
        b"Bearer aes1_a,aes1_b",
        b"Bearer\taes1_a",
        b"Bearer \taes1_a",
        b"Bearer \"aes1_a\"",
        b"Basic YTpi",
        b"Basic aes1_a",
        b"Bearer aes1_\xc3\xa9",
        b"Bearer \xff",
    ];
    for value in malformed {
        assert_eq!(field(&[value]), Err(Denied::Malformed), "{:?}", String::from_utf8_lossy(value));
    }
    let token: &[u8] = b"Bearer aes1_a";
    let twice: [[&[u8]; 2]; 4] = [[token, token], [token, b"Bearer aes1_b"], [b"", token], [token, b""]];
    for values in twice {
        assert_eq!(field(&values), Err(Denied::Malformed), "{values:?}");
    }
    let ambiguous: [&[(&'static str, &[u8])]; 3] = [
        &[("authorization-bin", b"QmVhcmVyIGFlczFfYQ")],
        &[("authorization", token), ("authorization-bin", b"")],
        &[("Authorization", token), ("authorization", token)],
    ];
    for headers in ambiguous {
        assert_eq!(offered_token(request(LOAD, headers).headers()), Err(Denied::Malformed), "{headers:?}");
    }
    assert_eq!(offered_token(request(LOAD, &[("proxy-authorization", token)]).headers()), Ok(None));
}

#[test]
fn a_caller_is_named_by_its_token_its_certificate_or_its_user() {
    let tokens = Tokens::new();
    let authentication = authentication(tokens.policy(None));
    let nothing = request(LOAD, &[]);
    let of = |request: &Request<()>, peer: &Peer| outcome(&authentication, request, peer);
    assert_eq!(of(&with_token(LOAD, tokens.arena.text()), &over_tls()), "arena-1");
    assert_eq!(of(&with_token(STATS, tokens.grafana.text()), &over_tls()), "grafana");
    assert_eq!(of(&nothing, &with_certificate(Some(SPIFFE))), "arena-1");
    let socket =
        |uid| peer(ConnectionFacts { uid: Some(uid), is_protected: true, ..ConnectionFacts::default() });
    assert_eq!(of(&nothing, &socket(998)), "tool");
    assert_eq!(of(&nothing, &socket(999)), "BAD_CREDENTIALS");
    assert_eq!(of(&nothing, &over_tls()), "NO_CREDENTIALS");
    for name in [Some("spiffe://game.example/other"), None] {
        assert_eq!(of(&nothing, &with_certificate(name)), "BAD_CREDENTIALS", "{name:?}");
    }
    // The token names the caller, also if it is wrong.
    let certified = with_certificate(Some(SPIFFE));
    assert_eq!(of(&with_token(STATS, tokens.grafana.text()), &certified), "grafana");
    for token in [Token::generate().unwrap().text(), "aes1_wrong", "x"] {
        assert_eq!(of(&with_token(STATS, token), &certified), "BAD_CREDENTIALS", "{token}");
    }
    assert_eq!(of(&request(STATS, &[("authorization", b"")]), &certified), "BAD_CREDENTIALS");
}

#[test]
fn a_caller_without_credentials_is_anonymous_where_the_configuration_allows_it() {
    let tokens = Tokens::new();
    let authentication = authentication(tokens.policy(Some("monitor")));
    let of = |request: &Request<()>, peer: &Peer| outcome(&authentication, request, peer);
    for peer in [over_tls(), Peer::default(), with_certificate(None), with_certificate(Some("spiffe://x/y"))]
    {
        assert_eq!(of(&request(STATS, &[]), &peer), "anonymous");
        assert_eq!(of(&request(LOAD, &[]), &peer), "NOT_ALLOWED");
    }
    assert_eq!(of(&with_token(STATS, "aes1_wrong"), &over_tls()), "BAD_CREDENTIALS");
}

#[test]
fn a_token_in_clear_is_refused_and_warned_of_once() {
    let tokens = Tokens::new();
    let authentication = authentication(tokens.policy(None));
    let in_clear = peer(ConnectionFacts { is_protected: false, ..over_tls().facts().clone() });
    for _ in 0..3 {
        let request = with_token(STATS, tokens.grafana.text());
        assert_eq!(outcome(&authentication, &request, &in_clear), "BAD_CREDENTIALS");
    }
    let warned = authentication.sent_in_clear.lock().unwrap().clone();
    assert_eq!(warned.iter().map(|id| &**id).collect::<Vec<_>>(), [tokens.grafana.id()]);
}

#[test]
fn a_call_needs_its_right_and_an_unknown_one_an_identity() {
    let tokens = Tokens::new();
    let authentication = authentication(tokens.policy(None));
    let of =
        |path: &str, token: &Token| outcome(&authentication, &with_token(path, token.text()), &over_tls());
    for path in [STATS, REFLECTION, "/other.Service/Call"] {
        assert_eq!(of(path, &tokens.grafana), "grafana", "{path}");
        assert_eq!(outcome(&authentication, &request(path, &[]), &over_tls()), "NO_CREDENTIALS", "{path}");
    }
    for (path, right) in [(LOAD, "load"), (REBUILD, "operate"), (EXECUTE, "execute")] {
        let refused = authentication.authenticate(&with_token(path, tokens.grafana.text()), &over_tls());
        let status = refused.unwrap_err().status;
        assert_eq!(status.code(), Code::PermissionDenied, "{path}");
        assert_eq!(status::refused_reason(&status).unwrap().1.as_deref(), Some(right), "{path}");
    }
    assert_eq!(of(REBUILD, &tokens.root), "root");
    assert_eq!(of(REBUILD, &tokens.arena), "NOT_ALLOWED");
}

#[test]
fn health_checks_need_no_credentials() {
    let authentication = authentication(Tokens::new().policy(None));
    for request in [request(HEALTH, &[]), with_token(HEALTH, "wrong")] {
        let caller = authentication.authenticate(&request, &Peer::default()).unwrap();
        assert!(!caller.principal.is_known());
        assert!(Right::ALL.into_iter().all(|right| !caller.principal.may(right)));
    }
}

#[test]
fn a_removed_token_is_refused_at_the_next_call_of_its_connection() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let (sender, control): (watch::Sender<Arc<Policy>>, _) = AccessControl::channel(old.policy(None));
    let authentication = Authentication::new(control, ClientRegistry::new(), AccessLog::default());
    let peer = over_tls();
    let of = |token: &Token| outcome(&authentication, &with_token(STATS, token.text()), &peer);
    assert_eq!((of(&old.arena).as_str(), of(&new.arena).as_str()), ("arena-1", "BAD_CREDENTIALS"));
    sender.send_replace(Arc::new(new.policy(None)));
    assert_eq!((of(&old.arena).as_str(), of(&new.arena).as_str()), ("BAD_CREDENTIALS", "arena-1"));
}

#[tokio::test]
async fn an_open_response_ends_when_its_token_is_removed() {
    let tokens = Tokens::new();
    let (sender, control): (watch::Sender<Arc<Policy>>, _) = AccessControl::channel(tokens.policy(None));
    let authentication = Authentication::new(control, ClientRegistry::new(), AccessLog::default());
    let call = with_token(REFLECTION, tokens.grafana.text());
    let principal = authentication.authenticate(&call, &over_tls()).unwrap().principal;
    let endless = futures_util::stream::pending::<Result<http_body::Frame<bytes::Bytes>, Status>>();
    let mut body = Revocable::new(Body::new(StreamBody::new(endless)), principal);
    let mut frame = body.frame();
    assert!(futures_util::poll!(&mut frame).is_pending());
    sender.send_replace(Arc::new(tokens.policy(Some("reader"))));
    assert!(futures_util::poll!(&mut frame).is_pending(), "its identity is the same");
    sender.send_replace(Arc::new(Tokens::new().policy(None)));
    let trailers = frame.await.unwrap().unwrap().into_trailers().ok().unwrap();
    assert_eq!(trailers["grpc-status"], "16");
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_eleventh_wrong_token_waits_and_a_right_one_does_not() {
    let tokens = Tokens::new();
    let authentication = authentication(tokens.policy(None));
    let peer = over_tls();
    let delay = |request: &Request<()>| authentication.authenticate(request, &peer).unwrap_err().delay;
    for _ in 0..20 {
        assert!(delay(&request(STATS, &[])).is_none(), "no token is no attempt");
    }
    for nth in 0..10 {
        assert!(delay(&with_token(STATS, Token::generate().unwrap().text())).is_none(), "{nth}");
    }
    let began = Instant::now();
    delay(&with_token(STATS, "aes1_mistyped")).unwrap().wait().await;
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!(outcome(&authentication, &with_token(STATS, tokens.grafana.text()), &peer), "grafana");
}

fn log(folder: &Path, log_writes: bool, log_reads: bool) -> (AccessLog, AccessLogGuard) {
    let settings = AccessLogSettings {
        folder: folder.to_owned(),
        file_bytes_max: 1 << 20,
        files_max: 2,
        log_writes,
        log_reads,
    };
    AccessLog::open(settings).unwrap()
}

/// The fields of each line that do not depend on the run.
fn logged(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("access.log")).unwrap();
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| match &line[name] {
            serde_json::Value::Null => "-".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let call = field("call").rsplit('/').next().unwrap().to_owned();
        let fields = ["identity", "code", "reason", "right", "events", "first_position"].map(field);
        format!("{call} {}", fields.join(" "))
    };
    text.lines().map(line).collect()
}

#[test]
fn refusals_are_logged_with_their_cause_and_without_any_secret() {
    let (tokens, folder) = (Tokens::new(), tempfile::tempdir().unwrap());
    let (log, guard) = log(folder.path(), false, false);
    let control = AccessControl::fixed(tokens.policy(None));
    let authentication = Authentication::new(control, ClientRegistry::new(), log);
    let foreign = Token::generate().unwrap();
    for request in [
        request(LOAD, &[]),
        with_token(LOAD, foreign.text()),
        with_token(LOAD, tokens.grafana.text()),
        with_token(STATS, tokens.grafana.text()),
        request("/no/such", &[]),
    ] {
        drop(authentication.authenticate(&request, &over_tls()));
    }
    drop(guard);
    assert_eq!(
        logged(folder.path()),
        [
            "LoadEvents - UNAUTHENTICATED NO_CREDENTIALS - - -",
            "LoadEvents - UNAUTHENTICATED BAD_CREDENTIALS - - -",
            "LoadEvents grafana PERMISSION_DENIED NOT_ALLOWED load - -",
            "such - UNAUTHENTICATED NO_CREDENTIALS - - -",
        ]
    );
    let text = fs::read_to_string(folder.path().join("access.log")).unwrap();
    assert!(text.contains(&format!("\"token\":\"{}\"", foreign.id())), "{text}");
    assert!(text.contains(&format!("\"token\":\"{}\"", tokens.grafana.id())), "{text}");
    assert!(text.contains("\"peer\":\"203.0.113.7:40000\""), "{text}");
    assert!(text.contains(&format!("\"cause\":\"{}\"", Denied::Unknown)), "{text}");
    for token in [&foreign, &tokens.grafana] {
        let hash = token.hash().to_string();
        let secret = token.text().strip_prefix("aes1_").and_then(|text| text.split_once('_')).unwrap().1;
        for secret in [secret, hash.strip_prefix("sha256:").unwrap()] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn what_few_may_do_is_always_logged_and_the_rest_as_configured() {
    for (writes, reads) in [(false, false), (true, true)] {
        let (tokens, folder) = (Tokens::new(), tempfile::tempdir().unwrap());
        let (log, guard) = log(folder.path(), writes, reads);
        let control = AccessControl::fixed(tokens.policy(None));
        let authentication = Authentication::new(control, ClientRegistry::new(), log);
        let call = |path: &str| {
            let request = with_token(path, tokens.root.text());
            authentication.authenticate(&request, &over_tls()).unwrap().principal
        };
        call(REBUILD).note_status(None);
        call(LOAD).note_status(None);
        let plain = call(EXECUTE);
        plain.note_right(Right::Execute);
        plain.note_stored(2, 40);
        plain.note_status(None);
        let players = call(EXECUTE);
        players.note_right(Right::ExecutePlayers);
        players.note_stored(1, 42);
        players.note_status(None);
        players.note_status(None);
        drop(players);
        let refused = call(EXECUTE);
        let status = status::value_not_allowed(Right::Execute, "commands[0].actor".to_owned());
        refused.note_status(Some(&status));
        refused.note_status(Some(&status));
        let abandoned = call(EXECUTE);
        abandoned.note_right(Right::ExecutePlayers);
        drop(abandoned);
        drop(guard);
        let mut expected = vec!["RebuildWorldState root OK - - - -"];
        expected.extend(reads.then_some("LoadEvents root OK - - - -"));
        expected.extend(writes.then_some("ExecuteCommands root OK - - 2 40"));
        expected.extend([
            "ExecuteCommands root OK - - 1 42",
            "ExecuteCommands root PERMISSION_DENIED NOT_ALLOWED execute - -",
            "ExecuteCommands root CANCELLED - - - -",
        ]);
        assert_eq!(logged(folder.path()), expected);
    }
}

/// A service that answers with the name of its caller.
#[derive(Clone)]
struct Named;

impl Service<Request<Body>> for Named {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut answer = Response::new(Body::empty());
        answer.extensions_mut().insert(request.extensions().get::<Admitted>().unwrap().clone());
        ready(Ok(answer))
    }
}

async fn through(gate: &Gate, peer: &Peer, request: Request<()>) -> Result<Admitted, Status> {
    let mut request = note_arrival(request.map(|()| Body::empty()));
    request.extensions_mut().insert(peer.clone());
    let answer = gate.layer(Named).call(request).await.unwrap();
    match answer.extensions().get::<Admitted>() {
        Some(admitted) => Ok(admitted.clone()),
        None => Err(answer.extensions().get::<Status>().unwrap().clone()),
    }
}

#[tokio::test]
async fn who_is_not_known_is_refused_before_any_limit() {
    let (tokens, peer) = (Tokens::new(), over_tls());
    let gate = Gate::new(1, ByteBudget::new(1 << 20)).with_access(
        AccessControl::fixed(tokens.policy(None)),
        ClientRegistry::new(),
        AccessLog::default(),
    );
    let known = || with_token(STATS, tokens.grafana.text());
    let admitted = through(&gate, &peer, known()).await.unwrap();
    assert_eq!(&*admitted.principal.recorded_by(), "grafana");
    let refused = |answer: Result<Admitted, Status>| answer.unwrap_err().code();
    assert_eq!(refused(through(&gate, &peer, known()).await), Code::ResourceExhausted);
    assert_eq!(refused(through(&gate, &peer, request(STATS, &[])).await), Code::Unauthenticated);
    assert_eq!(refused(through(&gate, &peer, with_token(STATS, "x")).await), Code::Unauthenticated);
    let not_allowed = with_token(LOAD, tokens.grafana.text());
    assert_eq!(refused(through(&gate, &peer, not_allowed).await), Code::PermissionDenied);
    through(&gate, &peer, request(HEALTH, &[])).await.unwrap();
    drop(admitted);
    through(&gate, &peer, known()).await.unwrap();
}

#[tokio::test]
async fn nobody_is_asked_while_access_control_is_off() {
    let gate = Gate::new(10, ByteBudget::new(1 << 20)).with_access(
        AccessControl::fixed(Policy::off()),
        ClientRegistry::new(),
        AccessLog::default(),
    );
    for request in [request(REBUILD, &[]), with_token(LOAD, "wrong"), request("/no/such", &[])] {
        let admitted = through(&gate, &Peer::default(), request).await.unwrap();
        assert!(!admitted.principal.is_known());
        assert_eq!(admitted.principal.credential, Credential::Off);
        assert_eq!(&*admitted.principal.recorded_by(), "");
        assert!(Right::ALL.into_iter().all(|right| admitted.principal.may(right)));
    }
}
