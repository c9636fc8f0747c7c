//! Everything that the service refuses is counted, named and logged.
//!
//! The log never gets one line per refused call.

use tonic::Code;

use crate::support::{
    events::{append_to, event, reason, request},
    service::{Client, Service, Setup},
};

const CALLS: usize = 300;

/// Sends appends that must all be refused, and returns the reasons.
async fn refused(client: &mut Client, calls: usize) -> Vec<String> {
    let mut reasons = Vec::new();
    for _ in 0..calls {
        let status = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
        assert!(matches!(status.code(), Code::ResourceExhausted | Code::Unavailable), "{status:?}");
        reasons.push(reason(&status));
    }
    reasons
}

fn lines<'l>(log: &'l str, level: &str, words: &str) -> Vec<&'l str> {
    log.lines().filter(|line| line.contains(level) && line.contains(words)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_reached_is_a_warning_a_minute_and_a_count_in_stats() {
    let setup = Setup::local().set("limits", "disk_free_min: 1125899906842624");
    let service = Service::start(setup).await;
    let reasons = refused(&mut service.client(), CALLS).await;
    assert!(reasons.iter().all(|reason| reason == "DISK_FULL"), "{reasons:?}");
    service.wait_for_log("DISK_FULL").await;
    let log = service.log();
    let told = lines(&log, "WARN", "DISK_FULL");
    assert!((1..=3).contains(&told.len()), "{} lines for {CALLS} calls: {told:#?}", told.len());
    assert!(told[0].contains("limits.disk_free_min"), "{}", told[0]);
    let stats = service.stats().await;
    let [refusal] = &stats.refusals[..] else { panic!("{:?}", stats.refusals) };
    assert_eq!((refusal.reason.as_str(), refusal.calls), ("DISK_FULL", CALLS as u64));
    assert!(refusal.message.contains("limits.disk_free_min"), "{refusal:?}");
    assert!(refusal.since.unwrap().seconds <= refusal.last.unwrap().seconds);
    let address = format!("127.0.0.1:{}", service.port());
    let shown = service.command(&["stats", "--address", &address]).output().unwrap();
    assert!(String::from_utf8(shown.stdout).unwrap().contains("DISK_FULL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_is_not_an_error_line_for_each_append() {
    // Only the log is to run out of space.
    let setup = Setup::local().set("event_sourcing", "index_path: index");
    let mut service = Service::new(setup.set("limits", "disk_free_min: 0"));
    if !service.use_disk(256) {
        return;
    }
    service.restart().await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.disk().fill();
    // The last free space is in pages that are already allocated.
    let mut client = service.client();
    while client.append_events(request(vec![event("room-1")])).await.is_ok() {}
    refused(&mut service.client(), CALLS).await;
    service.wait_for_log("writes to the local log fail").await;
    let log = service.log();
    let told = lines(&log, "ERROR", "writes to the local log fail");
    assert!((1..=3).contains(&told.len()), "{} lines for {CALLS} calls: {told:#?}", told.len());
}
