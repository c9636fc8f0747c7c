//! Measures what access control costs: appends with a token over TLS against appends in cleartext
//! without one, the check of a token, and the wait of one identity while another opens many streams
//! and reads none of them.
//!
//!     cargo bench --bench access
//!
//! Appends alternate between the two services, and the ratio of each pair counts. The load
//! generator runs on the same machine, with its own TLS: its CPU time is part of what is measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark panics on errors and prints its progress"
)]
#![allow(missing_docs, unreachable_pub, reason = "a program has no API")]

mod streams;

use std::{
    fs,
    hint::black_box,
    time::{Duration, Instant, SystemTime},
};

use aethyr_event_store::{
    access::{AccessSettings, Offer, Policy},
    grpc::wire::{NewEvent, event_store_service_client::EventStoreServiceClient, new_event::Data},
};
use aethyr_test_support as support;
use support::{
    access::{Bearer, Identities, WithToken},
    events::{event, request},
    service::{Service, Setup},
    tls::Authority,
};
use tokio::task::JoinSet;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

const CALLERS: usize = 64;
const CALLERS_PER_CONNECTION: usize = 16;
const PAIRS: usize = 9;
const ROUND: Duration = Duration::from_secs(4);
const DATA_BYTES: usize = 256;
const IDENTITIES: usize = 1000;
const CHECKS: u32 = 1_000_000;

#[tokio::main]
async fn main() {
    check_of_a_token();
    appends().await;
    streams::measure().await;
}

/// A service, and how its callers reach it.
pub struct Target {
    service: Service,
    bearer: Bearer,
    tls: Option<ClientTlsConfig>,
}

impl Target {
    pub async fn cleartext() -> Self {
        Self { service: Service::start(Setup::local()).await, bearer: Bearer::nobody(), tls: None }
    }

    /// Starts a service with TLS and these identities, called by the one with this token.
    pub async fn secured(identities: &Identities, token: &str) -> Self {
        let keys = "tls: { certificate_file: server.pem, key_file: server.key }";
        let mut service = Service::new(Setup::local().set("server", keys).set("access", "file: access.yml"));
        let authority = Authority::new("benchmark");
        authority.server().write(service.dir(), "server");
        identities.write(&service.dir().join("access.yml"));
        service.launch();
        let ca = Certificate::from_pem(authority.pem());
        let tls = Some(ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost"));
        let target = Self { service, bearer: Bearer::new(token), tls };
        let one = async || {
            let mut client = target.client(target.channel().await);
            client.append_events(request(vec![event("first")])).await.is_ok()
        };
        target.service.wait_until("an append", one).await;
        target
    }

    pub async fn channel(&self) -> Channel {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.service.address())).unwrap();
        match &self.tls {
            Some(tls) => endpoint.tls_config(tls.clone()).unwrap().connect().await.unwrap(),
            None => endpoint.connect().await.unwrap(),
        }
    }

    pub fn client(&self, channel: Channel) -> EventStoreServiceClient<WithToken> {
        self.bearer.events(channel)
    }

    /// Appends one event per call for the length of a round, and returns the events per second.
    async fn round(&self) -> f64 {
        let mut channels = Vec::new();
        for _ in 0..CALLERS.div_ceil(CALLERS_PER_CONNECTION) {
            channels.push(self.channel().await);
        }
        let (began, mut callers) = (Instant::now(), JoinSet::new());
        for caller in 0..CALLERS {
            let mut client = self.client(channels[caller / CALLERS_PER_CONNECTION].clone());
            callers.spawn(async move {
                let mut calls = 0u64;
                while began.elapsed() < ROUND {
                    let name = format!("place-{caller}-{}", calls % 100);
                    let data = Some(Data::Binary(vec![7; DATA_BYTES].into()));
                    let event = NewEvent { data, ..event(&name) };
                    client.append_events(request(vec![event])).await.unwrap();
                    calls += 1;
                }
                calls
            });
        }
        let calls: u64 = callers.join_all().await.into_iter().sum();
        calls as f64 / began.elapsed().as_secs_f64()
    }
}

async fn appends() {
    let mut identities = Identities::default();
    let token = identities.add("game", "game");
    let secured = Target::secured(&identities, &token).await;
    let cleartext = Target::cleartext().await;
    for target in [&cleartext, &secured] {
        target.round().await;
    }
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        // Alternates which one is first.
        let (without, with) = if pair % 2 == 0 {
            let without = cleartext.round().await;
            (without, secured.round().await)
        } else {
            let with = secured.round().await;
            (cleartext.round().await, with)
        };
        println!("pair {pair}: cleartext {without:.0}/s, token and TLS {with:.0}/s: {:.3}", with / without);
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "appends, {CALLERS} callers: median ratio {:.3} ({:.3} to {:.3})",
        ratios[PAIRS / 2],
        ratios[0],
        ratios[PAIRS - 1]
    );
}

fn check_of_a_token() {
    let mut identities = Identities::default();
    let tokens: Vec<String> =
        (0..IDENTITIES).map(|number| identities.add(&format!("name-{number}"), "game")).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.yml");
    identities.write(&path);
    assert!(fs::metadata(&path).unwrap().len() > 0);
    let policy = Policy::load(Some(&path), &AccessSettings::default()).unwrap();
    let began = Instant::now();
    for number in 0..CHECKS {
        let token = Some(tokens[number as usize % IDENTITIES].as_str());
        let offer = Offer { token, is_protected: true, ..Offer::default() };
        black_box(policy.identify(black_box(offer), SystemTime::now()).unwrap());
    }
    println!("check of a token, {IDENTITIES} identities: {:?}", began.elapsed() / CHECKS);
}
