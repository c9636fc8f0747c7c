//! ImmuDB over TLS, and the files that its password and certificates come from.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use aethyr_event_store::grpc::wire::State;

use crate::support::{
    events::append_to,
    immudb::ImmuDb,
    service::{Service, Setup},
    tls::{Authority, Days, replace},
};

/// An authority whose files, and those of a server's certificate, are in a directory.
struct Files {
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { authority: Authority::new("test"), folder: tempfile::tempdir().unwrap() };
        replace(&files.path("ca.pem"), files.authority.pem());
        files.authority.server().write(files.folder.path(), "server");
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn flags(&self, more: &[&str]) -> Vec<String> {
        let mut flags = vec![
            format!("--certificate={}", self.path("server.pem").display()),
            format!("--pkey={}", self.path("server.key").display()),
        ];
        flags.extend(more.iter().map(ToString::to_string));
        flags
    }
}

async fn start(folder: &Path, flags: &[String]) -> ImmuDb {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    ImmuDb::start_with(folder, &flags).await
}

fn setup(immudb: &ImmuDb, tls: &str) -> Setup {
    Setup::with_immudb(immudb.port()).set("immudb", &format!("tls: {tls}"))
}

/// Waits until the last error of the connection contains this text.
async fn wait_for_error(service: &Service, text: &str) {
    service
        .wait_for(text, |stats| stats.immudb.as_ref().is_some_and(|immudb| immudb.last_error.contains(text)))
        .await;
    assert_eq!(service.stats().await.state(), State::Fallback);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_replicated_over_tls_also_after_an_outage_and_a_new_certificate() {
    let (files, data) = (Files::new(), tempfile::tempdir().unwrap());
    let mut immudb = start(data.path(), &files.flags(&[])).await;
    let ca = files.path("ca.pem");
    let mut service = Service::start(setup(&immudb, &format!("{{ ca_file: {} }}", ca.display()))).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    service.wait_for_state(State::Fallback).await;
    append_to(&mut service.client(), "room-1", 3).await;
    // A certificate of another authority, which the service learns of when it connects again.
    let other = Authority::new("another");
    other.server().write(files.folder.path(), "server");
    immudb.restart().await;
    wait_for_error(&service, "unknown issuer").await;
    replace(&ca, other.pem());
    service.wait_until_forwarded().await;
    service.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_certificate_does_not_have_is_an_error_that_says_so() {
    let (files, data) = (Files::new(), tempfile::tempdir().unwrap());
    files.authority.issue(&["DNS:immudb.example"], Days(-1, 1)).write(files.folder.path(), "server");
    let immudb = start(data.path(), &files.flags(&[])).await;
    let ca = files.path("ca.pem");
    let mut service = Service::start(setup(&immudb, &format!("{{ ca_file: {} }}", ca.display()))).await;
    append_to(&mut service.client(), "room-1", 1).await;
    wait_for_error(&service, "not valid for").await;
    service.stop();
    let named = format!("{{ ca_file: {}, server_name: immudb.example }}", ca.display());
    service.reconfigure(setup(&immudb, &named));
    service.restart().await;
    service.wait_until_forwarded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_text_and_tls_are_told_apart() {
    let (files, data) = (Files::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let secured = start(data[0].path(), &files.flags(&[])).await;
    let clear = ImmuDb::start(data[1].path()).await;
    let mut to_tls = Service::start(Setup::with_immudb(secured.port())).await;
    append_to(&mut to_tls.client(), "room-1", 1).await;
    wait_for_error(&to_tls, "expects TLS").await;
    to_tls.stop();
    let ca = files.path("ca.pem");
    let to_clear = Service::start(setup(&clear, &format!("{{ ca_file: {} }}", ca.display()))).await;
    append_to(&mut to_clear.client(), "room-1", 1).await;
    wait_for_error(&to_clear, "does not use TLS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_certificate_gets_one() {
    let (files, data) = (Files::new(), tempfile::tempdir().unwrap());
    files.authority.issue(&["DNS:event-store"], Days(-1, 1)).write(files.folder.path(), "client");
    let ca = files.path("ca.pem");
    let flags = files.flags(&["--mtls=true", &format!("--clientcas={}", ca.display())]);
    let immudb = start(data.path(), &flags).await;
    let tls = format!(
        "{{ ca_file: {}, certificate_file: {}, key_file: {} }}",
        ca.display(),
        files.path("client.pem").display(),
        files.path("client.key").display()
    );
    let service = Service::start(setup(&immudb, &tls)).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_comes_out_of_a_file_that_is_read_at_each_login() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut immudb = ImmuDb::start(data.path()).await;
    let file = folder.path().join("password");
    // A file that was written by an editor ends with a newline.
    fs::write(&file, "immudb\n").unwrap();
    let line = format!("password_file: {}", file.display());
    let service = Service::start(Setup::with_immudb(immudb.port()).set("immudb", &line)).await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_until_forwarded().await;
    immudb.change_password("Another-1-password");
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_state(State::Fallback).await;
    replace(&file, "Another-1-password\n");
    service.wait_until_forwarded().await;
    assert!(!service.log().contains("Another-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_set_up_that_may_only_use_the_database_of_the_service() {
    let data = tempfile::tempdir().unwrap();
    let immudb = ImmuDb::start(data.path()).await;
    let administrator = Service::new(Setup::with_immudb(immudb.port()));
    let file = data.path().join("password");
    let path = file.to_str().unwrap();
    // May be repeated, also if the user exists and the file was lost.
    let mut passwords = Vec::new();
    for is_lost in [false, false, true] {
        if is_lost {
            fs::remove_file(&file).unwrap();
        }
        let (succeeded, said) = administrator.run(&["immudb-setup", "--password-file", path]);
        assert!(succeeded, "{said}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o400);
        passwords.push(fs::read_to_string(&file).unwrap());
        assert!(!said.contains(passwords.last().unwrap().trim()), "{said}");
    }
    assert!(passwords[0] == passwords[1] && passwords[1] != passwords[2]);
    let of_user = Setup::with_immudb(immudb.port())
        .set("immudb", "username: aethyr")
        .set("immudb", &format!("password_file: {path}"));
    let service = Service::start(of_user).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
    // The user cannot make users.
    let other = data.path().join("other");
    let arguments = ["immudb-setup", "--user", "another", "--password-file", other.to_str().unwrap()];
    let (succeeded, said) = service.run(&arguments);
    assert!(!succeeded && said.contains("permission"), "{said}");
}
