//! TLS on the service's port: versions, certificates, their exchange while it runs, and handshakes
//! that nobody finishes.

use std::{
    fs,
    io::Read as _,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

use aethyr_event_store::grpc::wire::event_store_service_client::EventStoreServiceClient;
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::service_of;
use crate::support::{
    access::{Bearer, Identities},
    events::{event, request},
    service::{Service, Setup},
    tls::{Authority, Days, Pair, replace},
};

/// A service with a certificate of its own authority, and one caller with a token.
pub(super) struct Secured {
    pub service: Service,
    pub authority: Authority,
    pub token: String,
}

const KEYS: &str = "tls: { certificate_file: tls/server.pem, key_file: tls/server.key }";

impl Secured {
    pub async fn start(keys: &str, identities: &mut Identities) -> Self {
        let token = identities.add("game", "game");
        let mut service = service_of(Setup::local().set("server", keys), identities);
        let authority = Authority::new("test");
        fs::create_dir_all(service.dir().join("tls")).unwrap();
        authority.server().write(&service.dir().join("tls"), "server");
        replace(&service.dir().join("tls/clients.pem"), authority.pem());
        service.launch();
        let secured = Self { service, authority, token };
        secured.served(&secured.trust()).await;
        secured
    }

    pub fn trust(&self) -> ClientTlsConfig {
        trust(&self.authority)
    }

    pub fn channel(&self, tls: ClientTlsConfig) -> Channel {
        let uri = format!("https://localhost:{}", self.service.port());
        Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap().connect_lazy()
    }

    pub async fn append(&self, tls: ClientTlsConfig, bearer: &Bearer) -> Result<(), tonic::Status> {
        let mut client = bearer.events(self.channel(tls));
        client.append_events(request(vec![event("place-1")])).await.map(drop)
    }

    async fn served(&self, tls: &ClientTlsConfig) {
        let bearer = Bearer::new(&self.token);
        self.service
            .wait_until("an append over TLS", async || self.append(tls.clone(), &bearer).await.is_ok())
            .await;
    }

    /// Runs `openssl s_client` against the port. Returns whether the handshake succeeded, and what
    /// it said.
    pub fn openssl(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", self.service.port())])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("openssl is installed");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

fn trust(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("localhost")
}

/// Returns whether a client reports a handshake that failed. Which code it uses depends on what it
/// notices first. A call that reached the service has another one.
fn ends_the_connection(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled)
}

pub(super) fn with_identity(authority: &Authority, pair: &Pair) -> ClientTlsConfig {
    trust(authority).identity(Identity::from_pem(&pair.certificate, &pair.key))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_current_versions_and_ciphers_are_spoken_and_only_http_2() {
    let secured = Secured::start(KEYS, &mut Identities::default()).await;
    let weak = ["-cipher", "DEFAULT:@SECLEVEL=0"];
    for version in ["-tls1", "-tls1_1"] {
        let (succeeded, said) = secured.openssl(&[&[version, "-alpn", "h2"], &weak[..]].concat());
        assert!(!succeeded, "{version}: {said}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let (succeeded, said) = secured.openssl(&[version, "-alpn", "h2"]);
        assert!(succeeded && said.contains("ALPN protocol: h2"), "{version}: {said}");
        assert!(said.contains("Compression: NONE") || !said.contains("Compression:"), "{said}");
        let legacy = said.contains("Secure Renegotiation IS supported") || version == "-tls1_3";
        assert!(legacy || said.contains("Secure Renegotiation IS NOT supported"), "{said}");
    }
    let cbc = "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0";
    let (succeeded, said) = secured.openssl(&["-tls1_2", "-alpn", "h2", "-cipher", cbc]);
    assert!(!succeeded, "{said}");
    let (succeeded, said) = secured.openssl(&["-alpn", "http/1.1"]);
    assert!(!succeeded, "{said}");
    // Clear text is not answered in clear text.
    let mut clear = TcpStream::connect(("127.0.0.1", secured.service.port())).unwrap();
    std::io::Write::write_all(&mut clear, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut answer = Vec::new();
    _ = clear.read_to_end(&mut answer);
    assert!(!answer.windows(3).any(|window| window == b"\0\0\x12"), "{answer:?}");
    assert!(answer.len() < 20, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_its_caller_and_other_certificates_name_nobody() {
    let mut identities = Identities::default();
    identities.add_line("arena", "arena: { role: game, certificate: \"spiffe://game.example/arena-1\" }");
    identities.add_line("dns", "dns: { role: reader, certificate: reader.game.example }");
    let keys = "tls: { certificate_file: tls/server.pem, key_file: tls/server.key, \
                client_ca_file: tls/clients.pem }";
    let secured = Secured::start(keys, &mut identities).await;
    let ca = &secured.authority;
    let code = async |tls: ClientTlsConfig, bearer: Bearer| {
        secured.append(tls, &bearer).await.map_err(|status| status.code()).err()
    };
    let uri = "URI:spiffe://game.example/arena-1";
    let arena = ca.issue(&["DNS:reader.game.example", uri], Days(-1, 1));
    assert_eq!(code(with_identity(ca, &arena), Bearer::nobody()).await, None);
    let dns = ca.issue(&["DNS:reader.game.example", "DNS:other"], Days(-1, 1));
    assert_eq!(code(with_identity(ca, &dns), Bearer::nobody()).await, Some(Code::PermissionDenied));
    let unknown = ca.issue(&["DNS:unknown.example"], Days(-1, 1));
    let unknown = with_identity(ca, &unknown);
    assert_eq!(code(unknown.clone(), Bearer::nobody()).await, Some(Code::Unauthenticated));
    // A token names the caller, not the certificate, and a bad one is refused in any case.
    assert_eq!(code(unknown, Bearer::new(&secured.token)).await, None);
    let bad = Bearer::new(&format!("{}x", secured.token));
    assert_eq!(code(with_identity(ca, &arena), bad).await, Some(Code::Unauthenticated));
    assert_eq!(code(secured.trust(), Bearer::nobody()).await, Some(Code::Unauthenticated));
    for refused in [ca.issue(&[uri], Days(-9, -1)), Authority::new("another").issue(&[uri], Days(-1, 1))] {
        let code = code(with_identity(ca, &refused), Bearer::nobody()).await;
        assert!(code.is_some_and(ends_the_connection), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_can_be_required() {
    let mut identities = Identities::default();
    identities.add_line("arena", "arena: { role: game, certificate: arena.game.example }");
    let token = identities.add("game-2", "game");
    let mut service = service_of(
        Setup::local().set(
            "server",
            "tls: { certificate_file: tls/server.pem, key_file: tls/server.key, client_ca_file: \
             tls/clients.pem, client_certificates: required }",
        ),
        &identities,
    );
    let authority = Authority::new("test");
    fs::create_dir_all(service.dir().join("tls")).unwrap();
    authority.server().write(&service.dir().join("tls"), "server");
    replace(&service.dir().join("tls/clients.pem"), authority.pem());
    service.launch();
    let secured = Secured { service, authority, token };
    let pair = secured.authority.issue(&["DNS:arena.game.example"], Days(-1, 1));
    let tls = with_identity(&secured.authority, &pair);
    secured
        .service
        .wait_until("an append", async || secured.append(tls.clone(), &Bearer::nobody()).await.is_ok())
        .await;
    let refused = secured.append(secured.trust(), &Bearer::new(&secured.token)).await.unwrap_err();
    assert!(ends_the_connection(refused.code()), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_nobody_finishes_hold_up_no_other() {
    const STALLED: usize = 1000;
    let keys = "tls: { certificate_file: tls/server.pem, key_file: tls/server.key }";
    let secured = Secured::start(keys, &mut Identities::default()).await;
    let mut stalled = Vec::new();
    for number in 0..STALLED {
        let mut stream = TcpStream::connect(("127.0.0.1", secured.service.port())).unwrap();
        // Half of them send the beginning of a handshake.
        if number % 2 == 0 {
            std::io::Write::write_all(&mut stream, &[22, 3, 1, 2, 0, 1]).unwrap();
        }
        stalled.push(stream);
    }
    secured.append(secured.trust(), &Bearer::new(&secured.token)).await.unwrap();
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_do_not_fit_stop_the_start_and_an_expired_certificate_does_not() {
    let mut identities = Identities::default();
    let token = identities.add("game", "game");
    let mut service = service_of(Setup::local().set("server", KEYS), &identities);
    let (authority, folder) = (Authority::new("test"), service.dir().join("tls"));
    fs::create_dir_all(&folder).unwrap();
    assert_eq!(service.launch_and_crash().code(), Some(64), "{}", service.log());
    authority.server().write(&folder, "server");
    replace(&folder.join("server.key"), &authority.server().key);
    assert_eq!(service.launch_and_crash().code(), Some(64), "{}", service.log());
    authority.issue(&["DNS:localhost", "IP:127.0.0.1"], Days(-9, -1)).write(&folder, "server");
    service.launch();
    service.wait_for_log("expired").await;
    let secured = Secured { service, authority, token };
    let (connected, said) = secured.openssl(&["-alpn", "h2"]);
    assert!(connected, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_knows_its_callers_user() {
    let mut identities = Identities::default();
    let user = rustix::process::getuid().as_raw();
    identities.add_line("operator", &format!("operator: {{ role: admin, uid: {user} }}"));
    let mut service = service_of(
        Setup::local().set("server", "listen: [\"127.0.0.1:0\", \"unix:run/store.sock\"]"),
        &identities,
    );
    fs::create_dir_all(service.dir().join("run")).unwrap();
    service.restart().await;
    let socket = service.dir().join("run/store.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let uri = format!("unix://{}", socket.display());
    let channel = Endpoint::from_shared(uri).unwrap().connect_lazy();
    let mut client = EventStoreServiceClient::new(channel);
    let stored = client.append_events(request(vec![event("place-1")])).await.unwrap();
    assert_eq!(stored.into_inner().last_position, 1);
    // The port gives the same user no name.
    let refused = service.client().append_events(request(vec![event("place-1")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // The commands on this machine use the socket.
    let output = service.command(&["stats", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A second service does not take the socket of a running one; a stopped one leaves none.
    service.stop();
    assert!(!socket.exists());
    service.restart().await;
    service.kill();
    assert!(socket.exists());
    service.restart().await;
    tokio::time::timeout(Duration::from_secs(300), client.append_events(request(vec![event("place-1")])))
        .await
        .unwrap()
        .unwrap();
}
