//! Faults that the service has to survive by itself, or by exiting, which is its supervisor's
//! business; and configurations under which it refuses all writes.

use std::{
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::State;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::Series;
use crate::{
    crowds::Draft,
    power,
    support::{
        descriptors,
        service::{Service, Setup},
    },
    world::{Control, SERVE, TAKE_OVER, state_within},
};

/// The limit until writes are accepted after the end of a fault.
const COMES_BACK_MAX: Duration = Duration::from_secs(60);
const ALL_IN_IMMUDB_WITHIN: Duration = Duration::from_secs(15);

impl Series<'_> {
    /// Restarts the service whenever it has ended by itself, but not while it could not start.
    pub(super) async fn supervise(&mut self) {
        let mut claimed = false;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            claimed = claimed || self.has_forwarded().await;
            if self.world.is_failing() {
                continue;
            }
            let mut service = self.world.service.lock().await;
            let Some(status) = service.ended() else { continue };
            self.count("ended by itself, and was started again");
            if status.code() != Some(1) {
                self.violation(format!("the service ended with {status}:\n{}", service.log()));
            }
            // Only the next start can settle the outcome of the last group: no other writer may
            // have the database before.
            if claimed && service.log().contains("the local log is poisoned") {
                self.intruder().await;
            }
            power::forget(&self.world.undo());
            let from = self.world.now();
            service.restart().await;
            self.world.was_down(from);
        }
    }

    /// Causes a fault that ends, with no help afterwards.
    pub(super) async fn goes_wrong_for_a_while(&mut self, fault: &'static str, control: Control, most: u64) {
        self.count(fault);
        self.world.set_failing(true);
        self.world.control(control, 1);
        self.for_a_while(50, most).await;
        self.world.control(control, 0);
        self.world.set_failing(false);
        self.comes_back(fault).await;
    }

    /// Only the index cannot be written for a while, and no client may notice that.
    pub(super) async fn index_fails(&mut self) {
        self.count("index fails");
        let before = self.world.service.lock().await.process_id();
        self.world.control(Control::IndexFails, 1);
        self.for_a_while(500, 2000).await;
        self.world.control(Control::IndexFails, 0);
        let mut service = self.world.service.lock().await;
        // Another fault may have restarted it in the meantime.
        if let (Some(status), true) = (service.ended(), service.process_id() == before) {
            drop(service);
            self.violation(format!("the index could not be written, and the service ended with {status:?}"));
            self.kill_service("service started again", |_, _| {}).await;
        }
    }

    /// Allows no more open files than there are now, or hardly more.
    pub(super) async fn few_files(&mut self) {
        const FAULT: &str = "no more files";
        let process = self.world.service.lock().await.process_id();
        let Ok(free) = descriptors::lowest_free(process) else { return };
        let process = Pid::from_raw(process as i32);
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = Some(free + self.random.u64(..8));
        let Ok(before) = prlimit(process, Resource::Nofile, Rlimit { current, maximum }) else { return };
        self.count(FAULT);
        self.world.set_failing(true);
        let from = self.world.now();
        self.for_a_while(200, 3000).await;
        // The process may be gone.
        _ = prlimit(process, Resource::Nofile, before);
        self.world.set_failing(false);
        // There are no new connections to ImmuDB, either.
        self.faults.immudb_gone.push((from, self.world.now()));
        self.comes_back(FAULT).await;
    }

    /// Runs under a configuration that refuses every write; retries of stored events are still
    /// answered.
    pub(super) async fn refuses(&mut self, fault: &'static str, section: &str, line: &str, most: u64) {
        self.count(fault);
        self.world.restart_with(Some((section, line))).await;
        self.for_a_while(500, most).await;
        self.world.restart_with(None).await;
    }

    /// Starts a second process on the same directories after the lock files have been removed.
    pub(super) async fn second_process(&mut self) {
        let mut service = self.world.service.lock().await;
        if !service.is_running() {
            return;
        }
        let all = self.random.bool();
        for lock in ["log/lock", "log.lock", "index/.owner"] {
            if all || self.random.bool() {
                let _ = std::fs::remove_file(service.storage().join(lock));
            }
        }
        let mut second = service.command(&SERVE);
        let mut second =
            second.env("AETHYR_SERVER__LISTEN", "127.0.0.1:0").stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + COMES_BACK_MAX;
        let ended = loop {
            match second.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() > until || !service.is_running() => break None,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        second.kill().unwrap();
        second.wait().unwrap();
        let is_over = !service.is_running();
        drop(service);
        self.count("locks removed");
        if !is_over && ended.and_then(|status| status.code()) != Some(1) {
            self.violation(format!("a second process over the same folders: {ended:?}"));
        }
    }

    /// Starts a service with another log on the index of this one.
    pub(super) async fn shares_its_index(&mut self) {
        let mut service = self.world.service.lock().await;
        if !service.is_running() {
            return;
        }
        let index = service.storage().canonicalize().unwrap().join("index");
        let line = format!("index_path: {}", index.display());
        let other = Service::new(Setup::local().set("event_sourcing", &line));
        let mut process = other.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap();
        let ended = ended_within(&mut process, COMES_BACK_MAX).await;
        drop(service);
        self.count("index shared");
        if ended.and_then(|status| status.code()) != Some(1) {
            self.violation(format!("a service of another log over the same index: {ended:?}"));
        }
    }

    /// Restores an older log. The events that it lacks are only in ImmuDB.
    pub(super) async fn older_copy(&mut self) {
        const FAULT: &str = "older copy of the log put back";
        // Another writer that had the database in the meantime would have events that the older log
        // lacks, and settling that needs an operator.
        let _contested = self.world.contested.lock().await;
        let mut service = self.world.service.lock().await;
        let [log, older] = log_and_older_copy(&service);
        let from = self.world.now();
        if !older.exists() {
            service.kill();
            copy_log(&service);
            self.world.begin(&mut service, self.world.setup()).await;
            self.world.was_down(from);
            return;
        }
        let writes_nothing = self.world.setup().set("event_sourcing", "enabled: false");
        self.world.begin(&mut service, writes_nothing).await;
        let all_is_in_immudb = forwards_all(&service).await;
        service.kill();
        if all_is_in_immudb {
            self.count(FAULT);
            std::fs::remove_dir_all(&log).unwrap();
            std::fs::rename(&older, &log).unwrap();
            let (opened, said) = service.run(&["pending", "list", "--offline"]);
            if !opened && !said.contains("is older than the index") || said.contains("panicked") {
                self.violation(format!("{FAULT}: {said}"));
            }
            std::fs::remove_dir_all(service.storage().join("index")).unwrap();
            let careful = self.world.setup().set("immudb", "require_contact: unclean");
            service.reconfigure(careful.clone());
            // Nothing of the older log may be shown before ImmuDB has been contacted.
            let world = self.world;
            let immudb = world.immudb.lock().await;
            let gone = world.now();
            immudb.pause();
            service.launch();
            self.for_a_while(200, 1500).await;
            immudb.resume();
            drop(immudb);
            self.faults.immudb_gone.push((gone, world.now()));
            let is_known = |state| matches!(state, State::Connected | State::Migrating | State::Fenced);
            match state_within(&service, COMES_BACK_MAX, is_known).await {
                // The database was taken over and taken back since the older log: an operator
                // decides.
                Some(State::Fenced) => world.begin(&mut service, careful.arguments(&TAKE_OVER)).await,
                Some(state) if is_known(state) => {}
                state => self.violation(format!("{FAULT}: {state:?} after {COMES_BACK_MAX:?}")),
            }
            service.reconfigure(self.world.setup());
        } else {
            self.world.begin(&mut service, self.world.setup()).await;
        }
        self.world.was_down(from);
    }

    async fn comes_back(&mut self, fault: &'static str) {
        let end = Instant::now() + COMES_BACK_MAX;
        while !self.takes_writes().await {
            if Instant::now() > end {
                self.violation(format!("no writes are taken {COMES_BACK_MAX:?} after: {fault}"));
                return self.kill_service("service killed", |_, _| {}).await;
            }
            self.for_a_while(100, 200).await;
        }
    }

    /// Returns whether writes are accepted, or refused for another reason than the disk.
    async fn takes_writes(&mut self) -> bool {
        let draft = Draft::of(self.world, &mut self.random, 1, 10);
        let (append, reason) = draft.send(self.world, self.world.client()).await;
        let stored = matches!(append.outcome, crate::history::Outcome::Stored(_));
        self.faults.history.appends.push(append);
        stored || matches!(reason.as_deref(), Some("FENCED" | "PENDING_EVENTS"))
    }

    fn violation(&mut self, what: String) {
        self.faults.history.violation("the service", what);
    }
}

/// Returns whether a service that accepts nothing new has everything in ImmuDB in time.
async fn forwards_all(service: &Service) -> bool {
    let until = Instant::now() + ALL_IN_IMMUDB_WITHIN;
    while Instant::now() < until {
        let stats = service.stats().await;
        if stats.pending_events == 0 && stats.pending_snapshots == 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

async fn ended_within(process: &mut Child, time: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process.kill().unwrap();
    process.wait().unwrap();
    None
}

/// Copies the log of a service that is not running.
pub(super) fn copy_log(service: &Service) {
    let [log, older] = log_and_older_copy(service);
    if older.exists() {
        return;
    }
    std::fs::create_dir(&older).unwrap();
    for entry in std::fs::read_dir(log).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), older.join(entry.file_name())).unwrap();
    }
}

fn log_and_older_copy(service: &Service) -> [PathBuf; 2] {
    [service.storage().join("log"), service.dir().join("older-log")]
}
