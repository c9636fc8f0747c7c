//! A clock that is set while the service runs, or that is wrong at startup: recorded times stay
//! plausible, or no event is accepted.

use std::os::unix::fs::FileExt;

use aethyr_event_store::{event::Timestamp, grpc::wire::StatsResponse};
use tempfile::{NamedTempFile, tempdir};
use tonic::Code;

use crate::support::{
    events::{append, event, load, reason, request},
    immudb::ImmuDb,
    service::{Service, Setup},
};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
/// More time than passes while a test runs.
const NOW: i64 = HOUR / 2;

/// The clocks of one service.
struct Clocks(NamedTempFile);

impl Clocks {
    fn of(setup: Setup) -> (Self, Setup) {
        let clocks = Self(NamedTempFile::new().unwrap());
        clocks.set(0, 0);
        let setup = setup
            .preload("tests/it/clocks/clock.c")
            .environment("CLOCK_OFFSETS", clocks.0.path().to_str().unwrap());
        (clocks, setup)
    }

    /// Sets the wall clock ahead by `ahead` seconds, and lets `passed` seconds pass.
    fn set(&self, ahead: i64, passed: i64) {
        let bytes = [ahead.to_ne_bytes(), passed.to_ne_bytes()].concat();
        self.0.as_file().write_all_at(&bytes, 0).unwrap();
    }
}

/// Appends an event, and returns how many seconds its recorded time is ahead of now.
async fn recorded(service: &Service) -> i64 {
    append(&mut service.client(), vec![event("room-1")]).await;
    let newest = load(&mut service.client(), "room-1").await.pop().unwrap();
    newest.recorded_at.unwrap().seconds - Timestamp::now().seconds()
}

fn near(seconds: i64, wanted: i64) -> bool {
    (seconds - wanted).abs() < NOW
}

async fn assert_accepts_no_writes(service: &Service) -> StatsResponse {
    let refused = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "CLOCK"), "{refused:?}");
    let stats = service.stats().await;
    assert_eq!((stats.writes_refused.as_str(), stats.reads_refused.as_str()), ("CLOCK", ""));
    service.wait_for_health("reads", true).await;
    stats
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_while_the_service_runs_is_not_followed_until_it_is_right() {
    let (clocks, setup) = Clocks::of(Setup::local());
    let mut service = Service::start(setup.clone()).await;
    assert!(near(recorded(&service).await, 0));
    clocks.set(10 * YEAR, 0);
    assert!(near(recorded(&service).await, 0));
    let stats = service.stats().await;
    assert!(near(stats.clock_difference_seconds as i64, 10 * YEAR), "{}", stats.clock_difference_seconds);
    assert_eq!((stats.writes_refused.as_str(), stats.recorded_ahead_seconds), ("", 0.0));
    service.wait_for_log("the wall clock has jumped").await;
    clocks.set(0, 0);
    assert!(near(recorded(&service).await, 0));
    assert_eq!(service.stats().await.clock_difference_seconds, 0.0);
    // Twelve hours pass without an event.
    clocks.set(0, 12 * HOUR);
    assert!(near(recorded(&service).await, 12 * HOUR));
    assert_eq!(service.stats().await.clock_difference_seconds, 0.0);
    assert_eq!(service.log().matches("the wall clock has jumped").count(), 1);
    // The operator declares the clock to be right.
    clocks.set(2 * HOUR, 12 * HOUR);
    assert!(near(recorded(&service).await, 12 * HOUR));
    service.stop();
    service.reconfigure(setup.arguments(&["serve", "--accept-clock"]));
    service.restart().await;
    assert!(near(recorded(&service).await, 14 * HOUR));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_does_not_fit_the_newest_event_stops_writes_until_it_is_right_or_accepted() {
    for wrong in [-2 * HOUR, 401 * 24 * HOUR] {
        let (clocks, setup) = Clocks::of(Setup::local());
        let mut service = Service::start(setup.clone()).await;
        assert!(near(recorded(&service).await, 0));
        service.stop();
        clocks.set(wrong, 0);
        service.restart().await;
        let stats = assert_accepts_no_writes(&service).await;
        assert!(near(stats.clock_difference_seconds as i64, wrong), "{}", stats.clock_difference_seconds);
        assert_eq!(load(&mut service.client(), "room-1").await.len(), 1);
        service.wait_for_log("--accept-clock").await;
        clocks.set(0, 0);
        assert!(near(recorded(&service).await, 0));
        service.stop();
        clocks.set(wrong, 0);
        service.reconfigure(setup.arguments(&["serve", "--accept-clock"]));
        service.restart().await;
        // Recorded times never run backwards.
        assert!(near(recorded(&service).await, wrong.max(0)));
        let ahead = service.stats().await.recorded_ahead_seconds as i64;
        assert!(near(ahead, (-wrong).max(0)), "{ahead}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_differs_from_immudbs_stops_writes_until_it_is_right() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let (clocks, setup) = Clocks::of(Setup::with_immudb(immudb.port()));
    clocks.set(2 * HOUR, 0);
    let service = Service::start(setup).await;
    service.wait_for("the claim", |stats| stats.writes_refused == "CLOCK").await;
    let stats = assert_accepts_no_writes(&service).await;
    assert!(near(stats.clock_difference_seconds as i64, 2 * HOUR));
    service.wait_for_log("ImmuDB's clock").await;
    clocks.set(0, 0);
    assert!(near(recorded(&service).await, 0));
    service.wait_until_forwarded().await;
}
