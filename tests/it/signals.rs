//! What signals do: every signal that would kill the process shuts it down cleanly, and SIGHUP
//! reloads the settings that may change at run time.

use std::{fs, time::Instant};

use rustix::process::Signal;

use crate::support::{
    events::append_to,
    service::{PATIENCE, Service, Setup},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_that_would_kill_ends_the_service_in_order() {
    let mut service = Service::new(Setup::local());
    for signal in [
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
        Signal::STKFLT,
        Signal::XCPU,
    ] {
        service.restart().await;
        append_to(&mut service.client(), "room-1", 1).await;
        service.signal(signal);
        assert_eq!(service.wait().code(), Some(0), "{signal:?}: {}", service.log());
        assert!(service.log().contains("stopped"), "{signal:?}");
    }
    // Real-time signals, which `kill` of procps and of the shell send by number.
    for number in ["34", "64"] {
        service.restart().await;
        let process = service.process_id().to_string();
        let killed = std::process::Command::new("kill").args([&format!("-{number}"), &process]).status();
        assert!(killed.unwrap().success());
        assert_eq!(service.wait().code(), Some(0), "{number}: {}", service.log());
    }
    service.restart().await;
    service.signal(Signal::XFSZ);
    service.signal(Signal::PIPE);
    append_to(&mut service.client(), "room-1", 1).await;
    assert_eq!(service.stop().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_opens_the_log_file_again_and_reads_the_level_and_names_what_else_has_changed() {
    let mut service = Service::start(Setup::local()).await;
    let (log, aside) = (service.dir().join("logs/system.log"), service.dir().join("logs/system.log.1"));
    fs::rename(&log, &aside).unwrap();
    service.reconfigure(Setup::local().set("logging", "level: debug").set("limits", "types_max: 77"));
    // Writes the configuration.
    service.command(&[]);
    service.signal(Signal::HUP);
    service.wait_for_log("limits.types_max").await;
    let text = || fs::read_to_string(&log).unwrap_or_default();
    let until = Instant::now() + PATIENCE;
    // Only this level logs the number of tasks.
    while !text().contains("DEBUG") {
        assert!(Instant::now() < until, "{}", text());
        append_to(&mut service.client(), "room-1", 1).await;
    }
    let told = text();
    assert!(told.contains("SIGHUP") && told.contains("WARN") && told.contains("limits.types_max"), "{told}");
    assert!(!told.contains("key=\"logging.level\"") && !told.contains("server.listen"), "{told}");
    assert!(!fs::read_to_string(&aside).unwrap().contains("SIGHUP"));
    // A configuration that cannot be read changes nothing.
    service.reconfigure(Setup::local().set("limits", "types_max: many"));
    service.command(&[]);
    service.signal(Signal::HUP);
    service.wait_for_log("configuration not reloaded").await;
    append_to(&mut service.client(), "room-1", 1).await;
    assert_eq!(service.stop().code(), Some(0));
}
