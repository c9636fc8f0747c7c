//! Tokens: what is accepted, what is not, and how the file with the identities takes effect.

use std::{
    fs,
    io::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{LoadEventsRequest, SubscribeRequest, subscribe_response::Content};
use prost::Message;
use rustix::process::Signal;
use tonic::Code;

use super::{file_of, refusal, service_of};
use crate::support::{
    access::{Bearer, Identities},
    events::{event, reason, request},
    service::{PATIENCE, Service, Setup},
};

const LOAD: &str = "/aethyr.eventstore.v1.EventStoreService/LoadEvents";

fn load() -> Vec<u8> {
    LoadEventsRequest { aggregate_id: "room-1".to_owned(), ..LoadEventsRequest::default() }.encode_to_vec()
}

fn denied(reason: &str) -> Option<(Code, String)> {
    Some((Code::Unauthenticated, reason.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_that_the_file_names_is_accepted_and_all_others_get_one_answer() {
    let mut identities = Identities::default();
    let token = identities.add("game", "game");
    let of_the_past = Identities::default().add("x", "game");
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    let header = |value: String| value;
    let good = header(format!("Bearer {token}"));
    // The scheme is case-insensitive.
    for accepted in [good.clone(), format!("bearer {token}"), format!("BEARER {token}")] {
        let refusal = refusal(&service, LOAD, &[("authorization", &accepted)], &load()).await;
        assert_eq!(refusal, None, "{accepted}");
    }
    let mut mistyped = token.clone();
    let last = mistyped.pop().unwrap();
    mistyped.push(if last == 'a' { 'b' } else { 'a' });
    let bad = [
        format!("Bearer {of_the_past}"),
        format!("Bearer {mistyped}"),
        format!("Bearer {token} "),
        format!("Bearer {token}x"),
        format!("Bearer {token},{token}"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Basic {token}"),
        token.clone(),
        String::new(),
        format!("Bearer {}", "a".repeat(8000)),
    ];
    for value in &bad {
        let refusal = refusal(&service, LOAD, &[("authorization", value)], &load()).await;
        assert_eq!(refusal, denied("BAD_CREDENTIALS"), "{value:?}");
    }
    // What is ambiguous is not accepted, even if all of it is good.
    let twice = [("authorization", good.as_str()), ("authorization", &good)];
    assert_eq!(refusal(&service, LOAD, &twice, &load()).await, denied("BAD_CREDENTIALS"));
    let other = [("authorization-bin", good.as_str())];
    assert_ne!(refusal(&service, LOAD, &other, &load()).await, None);
    // Neither the log nor the answer has any part of a token that could be used.
    let secret = &token[14..40];
    assert!(!service.log().contains(secret));
    for name in ["system.log", "access.log"] {
        let log = fs::read_to_string(service.dir().join("logs").join(name)).unwrap_or_default();
        assert!(!log.contains(secret), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_valid_between_its_dates_only() {
    let mut identities = Identities::default();
    let mut line = |name: &str, dates: &str| {
        let token = aethyr_event_store::access::Token::generate().unwrap();
        let text = format!(
            "{name}: {{ role: reader, tokens: [{{ id: {}, hash: \"{}\", {dates} }}] }}",
            token.id(),
            token.hash()
        );
        identities.add_line(name, &text);
        format!("Bearer {}", token.text())
    };
    let current = line("current", "not_before: 2020-01-01, expires: 2199-01-01T00:00:00Z");
    let expired = line("expired", "expires: 2020-01-01");
    let future = line("future", "not_before: 2199-01-01T12:00:00+02:00");
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    let refusal = async |value: &str| refusal(&service, LOAD, &[("authorization", value)], &load()).await;
    assert_eq!(refusal(&current).await, None);
    assert_eq!(refusal(&expired).await, denied("BAD_CREDENTIALS"));
    assert_eq!(refusal(&future).await, denied("BAD_CREDENTIALS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_out_ends_its_calls_and_its_streams_without_a_restart() {
    let mut identities = Identities::default();
    let (removed, kept) = (identities.add("removed", "game"), identities.add("kept", "game"));
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    let mut client = Bearer::new(&removed).events(service.channel());
    client.append_events(request(vec![event("room-1")])).await.unwrap();
    let mut following = client.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    while !matches!(following.message().await.unwrap().unwrap().content, Some(Content::CaughtUp(_))) {}
    let mut staying = Bearer::new(&kept).events(service.channel());
    let mut stream = staying.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    while !matches!(stream.message().await.unwrap().unwrap().content, Some(Content::CaughtUp(_))) {}
    // Without a signal: the service looks at the file by itself.
    identities.remove("removed");
    identities.write(&file_of(&service));
    let ended = loop {
        match following.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unauthenticated, "BAD_CREDENTIALS"));
    let status = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "BAD_CREDENTIALS"));
    staying.append_events(request(vec![event("room-1")])).await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_the_log_says_why() {
    let mut identities = Identities::default();
    let token = identities.add("game", "game");
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    let mut client = Bearer::new(&token).events(service.channel());
    client.append_events(request(vec![event("room-1")])).await.unwrap();
    for (number, broken) in ["identities: [", "roles: { x: { may: [fly] } }\nidentities: {}\n", "", "x: 1\n"]
        .into_iter()
        .enumerate()
    {
        fs::write(file_of(&service), broken).unwrap();
        service.signal(Signal::HUP);
        let until = Instant::now() + PATIENCE;
        while service.log().matches("access.yml").count() <= number {
            assert!(Instant::now() < until, "{broken:?}:\n{}", service.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.append_events(request(vec![event("room-1")])).await.unwrap();
    }
    fs::remove_file(file_of(&service)).unwrap();
    service.signal(Signal::HUP);
    client.append_events(request(vec![event("room-1")])).await.unwrap();
    // At a start it is an error of the configuration.
    service.stop();
    assert_eq!(service.launch_and_crash().code(), Some(64), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_and_checked_on_the_command_line() {
    let service = Service::new(Setup::local().set("access", "file: access.yml"));
    let made = service.command(&["token", "new", "arena-1", "--role", "game"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let said = String::from_utf8(made.stdout).unwrap();
    let token = said.split_whitespace().find(|word| word.starts_with("aes1_")).unwrap();
    // What is printed for the file is accepted as it is.
    let line = said.lines().find(|line| line.trim_start().starts_with("arena-1:")).unwrap();
    fs::write(file_of(&service), format!("identities:\n  {}\n", line.trim())).unwrap();
    let check = |text: &str| {
        let mut child = service
            .command(&["token", "check"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let (known, said) = check(&format!("{token}\n"));
    assert!(known && said.contains("arena-1") && !said.contains(&token[14..40]), "{said}");
    let (known, said) = check("aes1_aaaaaaaa_nothing\n");
    assert!(!known, "{said}");
    let shown = service.command(&["check-config"]).output().unwrap();
    let shown = String::from_utf8([shown.stdout, shown.stderr].concat()).unwrap();
    assert!(shown.contains("arena-1") && !shown.contains("sha256:"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_network_needs_access_control() {
    let open = Setup::local().set("server", "listen: 0.0.0.0:0");
    let mut service = Service::new(open.clone());
    assert_eq!(service.launch_and_crash().code(), Some(64));
    let said = service.log();
    assert!(said.contains("access.file") && said.contains("access.anonymous"), "{said}");
    let mut service = Service::new(open.set("access", "anonymous: admin"));
    service.restart().await;
    let mut client = service.client();
    client.append_events(request(vec![event("room-1")])).await.unwrap();
}
