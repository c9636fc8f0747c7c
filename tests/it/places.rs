//! Where the program looks for its configuration and its storage.
//!
//! It never serves an empty world when the existing one is stored elsewhere.

use std::{fs, path::Path, process::Command};

use crate::support::{
    events::{append_to, whole_order},
    service::{Service, Setup},
};

/// Runs the program in a directory, without a configuration of the user.
fn program(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_aethyr-event-store"))
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CONFIG_HOME", folder.join("of-user"))
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn without_a_configuration_nothing_touches_a_storage_and_init_writes_one() {
    let dir = tempfile::tempdir().unwrap();
    for command in
        [&["serve"][..], &[], &["repair"], &["import", "x"], &["pending", "list"], &["resolve", "--resend"]]
    {
        let (done, said) = program(dir.path(), command);
        assert!(!done, "{command:?}: {said}");
        let user = dir.path().join("of-user/aethyr-event-store/server.yml").display().to_string();
        let here = dir.path().join("conf/server.yml").display().to_string();
        for named in [&*here, &*user, "/etc/aethyr-event-store/server.yml", "aethyr-event-store init"] {
            assert!(said.contains(named), "{command:?}: {named} is not in {said}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let (done, said) = program(dir.path(), &["init"]);
    assert!(done && said.contains(&dir.path().join("conf/server.yml").display().to_string()), "{said}");
    assert_eq!(
        fs::read_to_string(dir.path().join("conf/server.yml")).unwrap(),
        include_str!("../../conf/server.yml")
    );
    let (done, said) = program(dir.path(), &["pending", "list", "--offline"]);
    assert!(!said.contains("no configuration"), "{done} {said}");
    // An existing file is not overwritten.
    fs::write(dir.path().join("conf/server.yml"), "mine").unwrap();
    let (done, said) = program(dir.path(), &["init"]);
    assert!(!done && said.contains("exists"), "{said}");
    assert_eq!(fs::read_to_string(dir.path().join("conf/server.yml")).unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_lies_where_its_configuration_does_whatever_the_working_directory_is() {
    let mut service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 2).await;
    let order = whole_order(&mut service.client()).await;
    let begun = format!("new, empty log at {}", service.storage().join("log").display());
    assert!(service.log().lines().next().unwrap().contains(&begun), "{}", service.log());
    service.stop();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = service.dir().join("conf/server.yml");
    let (done, said) =
        program(elsewhere.path(), &["pending", "list", "--offline", "--config", file.to_str().unwrap()]);
    assert!(done, "{said}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "something was made there");
    service.restart().await;
    assert!(!service.log().contains("new, empty log"), "{}", service.log());
    assert_eq!(whole_order(&mut service.client()).await, order);
}

/// Earlier versions resolved relative paths against the working directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lies_by_the_former_rule_alone_is_named_and_no_other_is_begun() {
    let mut service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.stop();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("server.yml");
    fs::copy(service.dir().join("conf/server.yml"), &file).unwrap();
    let (done, said) = program(service.dir(), &["serve", "--config", file.to_str().unwrap()]);
    assert!(!done, "{said}");
    for log in [service.storage().join("log"), elsewhere.path().join("storage/log")] {
        assert!(said.contains(log.to_str().unwrap()), "{said}");
    }
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1, "a storage was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn event_files_of_aethyrs_own_are_named_as_such() {
    let mut service = Service::new(Setup::local());
    let folder = service.storage().join("events/476dfe3e-96bc-1952-fadd-26c22043a5a3");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("1.event"), b"\x04\x08{\x06:\x09name").unwrap();
    for command in [&["serve"][..], &["import", "storage/events"]] {
        let (done, said) = service.run(command);
        assert!(!done && said.contains("Aethyr's own event store"), "{command:?}: {said}");
        assert!(!said.contains("run `aethyr-event-store import"), "{command:?}: {said}");
    }
    fs::rename(service.storage().join("events"), service.dir().join("elsewhere")).unwrap();
    service.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_is_begun_in_a_folder_that_has_something_else() {
    let mut service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.stop();
    let log = service.storage().join("log");
    for (name, is_refused) in
        [("notes.txt", true), ("writers", true), ("id", true), ("lost+found", false), ("lock", false)]
    {
        fs::remove_dir_all(service.storage()).unwrap();
        fs::create_dir_all(&log).unwrap();
        fs::write(log.join(name), "").unwrap();
        if is_refused {
            let (served, said) = service.run(&["serve"]);
            assert!(!served && said.contains(name) && said.contains("missing or empty"), "{name}: {said}");
            assert_eq!(service.segments().len(), 0, "{name}");
        } else {
            service.restart().await;
            service.stop();
        }
    }
}
