//! Everything that callers prove themselves with is exchanged while the service runs.

use std::{
    fs,
    process::Command,
    sync::{Arc, Mutex},
};

use aethyr_event_store::access::Token;
use rustix::process::Signal;
use tokio::{sync::watch, task::JoinSet};
use tonic::Code;

use super::{
    file_of,
    tls::{Secured, with_identity},
};
use crate::{
    documents::console::grpcurl,
    support::{
        access::{Bearer, Identities},
        events::{event, reason, request},
        tls::{Authority, Days, replace},
    },
};

const KEYS_WITH_CLIENTS: &str = "tls: { certificate_file: tls/server.pem, key_file: tls/server.key, \
                                 client_ca_file: tls/clients.pem }";
const CALLERS: usize = 64;
const EXCHANGES: usize = 50;

/// The identity of the callers: one name, with one token more than it needs.
struct Rotated {
    tokens: Vec<Token>,
    present: Arc<Mutex<Bearer>>,
}

impl Rotated {
    fn new() -> Self {
        Self { tokens: Vec::new(), present: Arc::new(Mutex::new(Bearer::nobody())) }
    }

    /// Makes a new token beside the last one, and returns the line with both.
    fn next(&mut self) -> String {
        self.tokens.push(Token::generate().unwrap());
        let last = self.tokens.iter().rev().take(2);
        let entries: Vec<_> =
            last.map(|token| format!("{{ id: {}, hash: \"{}\" }}", token.id(), token.hash())).collect();
        format!("rotated: {{ role: game, tokens: [{}] }}", entries.join(", "))
    }

    /// Has the callers use the newest token from now on.
    fn hand_out(&self) -> Bearer {
        let bearer = Bearer::new(self.tokens.last().unwrap().text());
        *self.present.lock().unwrap() = bearer.clone();
        bearer
    }
}

/// Returns the beginning of the certificate that the service shows.
fn certificate(secured: &Secured) -> String {
    let (_, said) = secured.openssl(&["-alpn", "h2", "-showcerts"]);
    let from = said.find("-----BEGIN").unwrap();
    said[from..from + 400].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_certificates_authorities_and_tokens_are_exchanged() {
    let mut identities = Identities::default();
    identities.add_line("arena", "arena: { role: game, certificate: arena.game.example }");
    let secured = Secured::start(KEYS_WITH_CLIENTS, &mut identities).await;
    let folder = secured.service.dir().join("tls");
    let mut rotated = Rotated::new();
    identities.add_line("rotated", &rotated.next());
    identities.write(&file_of(&secured.service));
    secured.service.signal(Signal::HUP);
    let first = rotated.hand_out();
    let served = async || secured.append(secured.trust(), &first).await.is_ok();
    secured.service.wait_until("the first token", served).await;

    let (stop, stopped) = watch::channel(false);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (channel, present, stopped) =
            (secured.channel(secured.trust()), rotated.present.clone(), stopped.clone());
        callers.spawn(async move {
            let mut calls = 0;
            while !*stopped.borrow() {
                let bearer = present.lock().unwrap().clone();
                bearer.events(channel.clone()).append_events(request(vec![event("place-1")])).await.unwrap();
                calls += 1;
            }
            calls
        });
    }
    let mut authority = None;
    for number in 0..EXCHANGES {
        let before = certificate(&secured);
        if number % 10 == 9 {
            // A key that does not fit changes nothing.
            let errors = secured.service.log().matches("server.key").count();
            replace(&folder.join("server.key"), &secured.authority.server().key);
            secured.service.signal(Signal::HUP);
            let refused = async || secured.service.log().matches("server.key").count() > errors;
            secured.service.wait_until("the error of the key", refused).await;
            assert_eq!(certificate(&secured), before);
        }
        secured.authority.server().write(&folder, "server");
        let clients = Authority::new("clients");
        replace(&folder.join("clients.pem"), clients.pem());
        identities.remove("rotated");
        identities.add_line("rotated", &rotated.next());
        identities.write(&file_of(&secured.service));
        secured.service.signal(Signal::HUP);
        secured.service.wait_until("the certificate", async || certificate(&secured) != before).await;
        let newest = Bearer::new(rotated.tokens.last().unwrap().text());
        let accepted = async || secured.append(secured.trust(), &newest).await.is_ok();
        secured.service.wait_until("the new token", accepted).await;
        // A certificate of the new authority names its caller, and one of the old no longer does.
        let issue = |authority: &Authority| {
            let pair = authority.issue(&["DNS:arena.game.example"], Days(-1, 1));
            with_identity(&secured.authority, &pair)
        };
        let accepted = async || secured.append(issue(&clients), &Bearer::nobody()).await.is_ok();
        secured.service.wait_until("the new authority", accepted).await;
        if let Some(before) = authority.replace(clients) {
            secured.append(issue(&before), &Bearer::nobody()).await.unwrap_err();
        }
        rotated.hand_out();
    }
    stop.send(true).unwrap();
    let calls: usize = callers.join_all().await.into_iter().sum();
    assert!(calls > CALLERS, "{calls}");
    // All tokens but the last two are of the past.
    for token in &rotated.tokens[..EXCHANGES - 1] {
        let status = secured.append(secured.trust(), &Bearer::new(token.text())).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "BAD_CREDENTIALS"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_calls_over_tls_with_a_token_or_a_certificate() {
    let mut identities = Identities::default();
    identities.add_line("arena", "arena: { role: game, certificate: arena.game.example }");
    let secured = Secured::start(KEYS_WITH_CLIENTS, &mut identities).await;
    let folder = secured.service.dir().join("tls");
    replace(&folder.join("ca.pem"), secured.authority.pem());
    let pair = secured.authority.issue(&["DNS:arena.game.example"], Days(-1, 1));
    pair.write(&folder, "arena");
    let call = |arguments: &[&str], service: &str| {
        let body = r#"{"events":[{"aggregate_id":"place-1","aggregate_type":"Place","event_type":"Seen"}]}"#;
        let output = Command::new(grpcurl())
            .current_dir(&folder)
            .args(["-cacert", "ca.pem", "-d", body])
            .args(arguments)
            .args([&secured.service.address(), service])
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), said)
    };
    let append = "aethyr.eventstore.v1.EventStoreService/AppendEvents";
    let bearer = format!("authorization: Bearer {}", secured.token);
    let (succeeded, said) = call(&["-H", &bearer], append);
    assert!(succeeded && said.contains("lastPosition"), "{said}");
    let (succeeded, said) = call(&["-cert", "arena.pem", "-key", "arena.key"], append);
    assert!(succeeded, "{said}");
    let (succeeded, said) = call(&[], append);
    assert!(!succeeded && said.contains("Unauthenticated"), "{said}");
    let health =
        secured.service.command(&["health", "--address", &secured.service.address()]).output().unwrap();
    assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
    // A client without TLS is told what may be missing.
    let without = secured.service.dir().join("without.yml");
    fs::write(&without, format!("server: {{ listen: \"{}\" }}\n", secured.service.address())).unwrap();
    for command in ["health", "stats"] {
        let output =
            secured.service.command(&["--config", without.to_str().unwrap(), command]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("--ca-file"), "{command}: {said}");
    }
    identities.remove("game");
    identities.write(&file_of(&secured.service));
    // Without a signal and without a restart.
    let refused = async || {
        let (succeeded, said) = call(&["-H", &bearer], append);
        !succeeded && said.contains("Unauthenticated")
    };
    secured.service.wait_until("the end of the token", refused).await;
}
