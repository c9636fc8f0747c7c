//! Messages are clear to a reader who does not know the program: they name the key, the path or the
//! address, and say what to do.

use std::{
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{NewEvent, StatsRequest, new_event::Data};

use crate::support::{
    events::{append, append_to, event},
    service::{PATIENCE, Service, Setup},
};

/// Returns the exit code, standard output and standard error of a command that ends by itself.
fn run(service: &Service, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = service.command(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn an_address_that_is_taken_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let service = Service::new(Setup::local().set("server", &format!("listen: {address}")));
    let (code, _, said) = run(&service, &["serve"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("server.listen") && said.contains(&address), "{said}");
}

#[test]
fn a_log_that_cannot_be_opened_is_named_with_its_key_and_its_whole_path() {
    let service = Service::new(Setup::local().set("event_sourcing", "log_path: taken/log"));
    // A file is in the place of the directory; permissions would not stop a superuser.
    std::fs::write(service.dir().join("taken"), "").unwrap();
    std::fs::set_permissions(service.dir().join("taken"), PermissionsExt::from_mode(0o600)).unwrap();
    let (code, _, said) = run(&service, &["serve"]);
    assert_eq!(code, Some(1), "{said}");
    let path = service.dir().join("taken/log").display().to_string();
    assert!(said.contains("event_sourcing.log_path") && said.contains(&path), "{said}");
}

#[test]
fn where_nobody_listens_the_command_line_asks_whether_the_service_runs() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let service = Service::new(Setup::local());
    for command in ["stats", "health"] {
        let (code, _, said) = run(&service, &[command, "--address", &free]);
        assert_eq!(code, Some(1));
        assert!(said.contains(&free) && said.contains("is the event store running there?"), "{said}");
    }
    assert_eq!(run(&service, &["stats", "--address", "no port"]).0, Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_asked_by_name_and_its_figures_have_their_zeros() {
    let service = Service::start(Setup::local()).await;
    let address = format!("localhost:{}", service.port());
    assert_eq!(run(&service, &["health", "--address", &address]).0, Some(0));
    assert_eq!(run(&service, &["health", "--service", "immudb", "--address", &address]).0, Some(1));
    let (code, printed, said) = run(&service, &["stats", "--json", "--address", &address]);
    assert_eq!(code, Some(0), "{said}");
    let stats: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(stats["pending_events"], 0, "{printed}");
    assert_eq!(stats["writes_refused"], "", "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_findings_the_list_says_so_while_the_service_runs_and_after_it_stopped() {
    let mut service = Service::start(Setup::local()).await;
    let nothing = "findings: open 0, accepted 0\n".to_owned();
    assert_eq!(run(&service, &["findings"]), (Some(0), nothing.clone(), String::new()));
    service.stop();
    assert_eq!(run(&service, &["findings"]), (Some(0), nothing, String::new()));
    assert_eq!(run(&service, &["findings", "--json"]), (Some(0), String::new(), String::new()));
    assert!(!service.storage().join("log.findings").exists(), "the command has written a file");
}

#[test]
fn findings_of_a_log_that_no_configuration_names_are_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_aethyr-event-store"));
    let isolated = command.current_dir(dir.path()).env("HOME", dir.path()).env_remove("XDG_CONFIG_HOME");
    let output = isolated.arg("findings").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no configuration file found"));
}

#[test]
fn findings_are_accepted_with_a_reason_and_by_no_other_choice() {
    let service = Service::new(Setup::local());
    for arguments in [
        &["resolve", "--accept-findings", "1"][..],
        &["resolve", "--accept-findings", "1", "--because", ""],
        &["resolve", "--accept-findings", "one", "--because", "known"],
        &["resolve", "--accept-findings", "1", "--because", "known", "--resend"],
        &["resolve", "--resend", "--because", "known"],
        &["resolve", "--because", "known"],
    ] {
        assert_eq!(run(&service, arguments).0, Some(64), "{arguments:?}");
    }
    let none: &[&str] = &[];
    for numbers in [none, &["1"], &["1", "2"]] {
        let arguments = [&["resolve", "--accept-findings"][..], numbers, &["--because", "known"]].concat();
        // Understood, and refused because there is nothing to accept.
        assert_eq!(run(&service, &arguments).0, Some(1), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_limit_on_open_files_costs_connections_and_not_the_log() {
    let mut service = Service::new(Setup::local().set("event_sourcing", "segment_bytes_max: 1048576"));
    service.use_open_files(256);
    service.restart().await;
    assert!(service.log().contains("limits.connections_max"), "{}", service.log());
    let mut writer = service.client();
    append_to(&mut writer, "room-1", 1).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.extend(TcpStream::connect(("127.0.0.1", service.port())));
    }
    // Each event takes more than half of a segment, so the service has to create files while the
    // connections hold all the descriptors that they can get.
    for _ in 0..8 {
        let data = Some(Data::Binary(vec![7; 600_000].into()));
        append(&mut writer, vec![NewEvent { data, ..event("room-1") }]).await;
    }
    // There may be no descriptor for a new connection until an idle one is closed.
    let mut newcomer = service.client();
    let until = Instant::now() + PATIENCE;
    while let Err(status) = newcomer.stats(StatsRequest {}).await {
        assert!(Instant::now() < until, "{status:?}");
        idle.pop();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    append_to(&mut newcomer, "room-1", 50).await;
    drop(idle);
}
