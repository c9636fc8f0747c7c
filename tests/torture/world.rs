//! The service, its ImmuDB and the proxy between them, all in one directory.
//!
//! Faults are applied and ended here; when they happen is decided elsewhere.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{State, StatsRequest};
use tokio::sync::Mutex;
use tonic::transport::Endpoint;

use crate::{
    history::At,
    power,
    support::{
        immudb::ImmuDb,
        port::Port,
        proxy::{Mode, Proxy},
        service::{Client, PATIENCE, Service, Setup},
    },
    watch::Watch,
};

/// The time since the start of the run.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn now(self) -> At {
        self.0.elapsed()
    }
}

pub struct World {
    folder: PathBuf,
    began: Instant,
    port: Port,
    setup: Setup,
    /// Held while the database may change hands. Locked before the service.
    pub contested: Mutex<()>,
    pub service: Mutex<Service>,
    pub immudb: Mutex<ImmuDb>,
    pub proxy: Proxy,
    control: fs::File,
    /// The service could not start at the moment.
    failing: AtomicBool,
    /// The times in which the service was stopped or not running.
    down: std::sync::Mutex<Vec<(At, At)>>,
}

/// The password of ImmuDB's administrator: one that may be changed back.
pub const PASSWORD: &str = "Xyzzy-1-plugh";
/// How long a client waits for an ImmuDB that does not answer.
pub const FALLBACK_AFTER: Duration = Duration::from_secs(1);
/// Small enough that a longer outage reaches the limit.
const PENDING_EVENTS_MAX: u64 = 5000;
/// With a clock that is years off, a restarted service would accept no event.
pub const SERVE: [&str; 2] = ["serve", "--accept-clock"];
pub const TAKE_OVER: [&str; 3] = ["serve", "--accept-clock", "--take-over"];
/// More than a run writes. The disk is in memory.
const DISK_MEBIBYTES: u32 = 12 << 10;

/// The commands for the shim, by the index of their number.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    DiskFull = 0,
    SyncFails = 1,
    ClockSeconds = 2,
    IndexFails = 3,
}

impl World {
    pub async fn build(seed: u64) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("torture-{seed}-")).tempdir().unwrap().keep();
        let immudb = start_immudb(&folder.join("immudb")).await;
        let proxy = Proxy::start(immudb.port()).await;
        let port = Port::free();
        fs::create_dir(folder.join("undo")).unwrap();
        let path = folder.join("control");
        fs::write(&path, [0; 32]).unwrap();
        let control = fs::File::options().write(true).open(&path).unwrap();
        // In every other run, more is pending than one transaction holds.
        let batch_bytes_max = if seed % 2 == 1 { 8192 } else { 4 << 20 };
        let setup = Setup::with_immudb(proxy.port())
            .set("immudb", &format!("batch_bytes_max: {batch_bytes_max}"))
            .set("server", &format!("listen: 127.0.0.1:{}", port.number()))
            .set("server", "shutdown_grace: 10.0")
            .set("event_sourcing", "segment_bytes_max: 1048576")
            .set("event_sourcing", "event_files: true")
            .set("proof", "checkpoint_every: 1.0")
            .set("audit", "events_per_second: 2000")
            .set("event_sourcing", "event_files_max: 200")
            .set("immudb", &format!("password: {PASSWORD}"))
            .set("limits", &format!("pending_events_max: {PENDING_EVENTS_MAX}"))
            .set("immudb", &format!("fallback_after: {}", FALLBACK_AFTER.as_secs_f64()))
            .set("immudb", "connect_timeout: 1.0")
            .set("immudb", "request_timeout: 2.0")
            .set("immudb", "retry_delay: 0.05")
            .set("immudb", "retry_delay_max: 0.5")
            .arguments(&SERVE)
            .preload("tests/torture/shim.c")
            .environment("TORTURE_CONTROL", path.to_str().unwrap())
            .environment("TORTURE_UNDO", folder.join("undo").to_str().unwrap());
        let service = Service::new(setup.clone());
        let watch = service.storage();
        let setup = setup.environment("TORTURE_WATCH", watch.to_str().unwrap());
        let world = Self {
            folder,
            began: Instant::now(),
            port,
            setup: setup.clone(),
            contested: Mutex::default(),
            service: Mutex::new(service),
            immudb: Mutex::new(immudb),
            proxy,
            control,
            failing: AtomicBool::new(false),
            down: std::sync::Mutex::default(),
        };
        let mut service = world.service.lock().await;
        service.reconfigure(setup);
        service.restart().await;
        // ImmuDB itself leaves files that it never opens again if its disk is full, or if it is
        // killed, while it creates a database.
        service.wait_for_state(State::Connected).await;
        drop(service);
        world
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn undo(&self) -> PathBuf {
        self.folder.join("undo")
    }

    pub fn now(&self) -> At {
        self.clock().now()
    }

    pub fn clock(&self) -> Clock {
        Clock(self.began)
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port.number())).unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new(self.endpoint().connect_lazy()).max_decoding_message_size(64 << 20)
    }

    pub fn control(&self, what: Control, number: i64) {
        self.control.write_all_at(&number.to_le_bytes(), what as u64 * 8).unwrap();
    }

    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::SeqCst)
    }

    pub fn setup(&self) -> Setup {
        self.setup.clone()
    }

    /// Records that the service was down from this time until now.
    pub fn was_down(&self, from: At) {
        self.down.lock().unwrap().push((from, self.now()));
    }

    pub fn downs(&self) -> Vec<(At, At)> {
        self.down.lock().unwrap().clone()
    }

    /// Samples the resources that the service uses, without end.
    pub async fn watch(&self, watch: &mut Watch) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let process = self.service.lock().await.process_id();
            watch.look(process, None, None);
        }
    }

    /// Restarts the service on its data, with one more line of configuration or without it again.
    pub async fn restart_with(&self, line: Option<(&str, &str)>) {
        let mut service = self.service.lock().await;
        let from = self.now();
        let setup = match line {
            Some((section, line)) => self.setup().set(section, line),
            None => self.setup(),
        };
        self.begin(&mut service, setup).await;
        self.was_down(from);
    }

    /// Restarts the service with this configuration.
    pub async fn begin(&self, service: &mut Service, setup: Setup) {
        service.kill();
        power::forget(&self.undo());
        service.reconfigure(setup);
        service.restart().await;
    }

    /// Returns a second service, which has no right to this database.
    pub fn intruder(&self, immudb_port: u16) -> Service {
        Service::new(setup_of_second(immudb_port))
    }

    /// Like [`World::intruder`], but the service takes the database over without asking.
    pub fn usurper(&self, immudb_port: u16) -> Service {
        Service::new(setup_of_second(immudb_port).arguments(&TAKE_OVER))
    }

    /// Gives the database back to the service, which was fenced, as an operator does. The events
    /// that the service has accepted in the meantime fit, because no other writer has accepted any.
    /// Returns whether the service was seen to have the database.
    pub async fn take_back(&self) -> bool {
        const CLAIMED_WITHIN: Duration = Duration::from_secs(60);
        let mut service = self.service.lock().await;
        let from = self.now();
        service.kill();
        // On a full disk the service would not start.
        self.control(Control::DiskFull, 0);
        self.control(Control::SyncFails, 0);
        self.control(Control::IndexFails, 0);
        power::forget(&self.undo());
        service.reconfigure(self.setup.clone().arguments(&TAKE_OVER));
        service.restart().await;
        self.was_down(from);
        // A restart before that, without the argument, would not take over the database.
        let has_it = |state| matches!(state, State::Connected | State::Migrating);
        let state = state_within(&service, CLAIMED_WITHIN, has_it).await;
        let claimed = state.is_some_and(has_it);
        if claimed {
            service.reconfigure(self.setup.clone());
        }
        claimed
    }

    /// Ends all faults, and waits until everything is in ImmuDB.
    pub async fn heal(&self) {
        self.proxy.set(Mode::Pass);
        self.proxy.cut();
        for what in [Control::DiskFull, Control::SyncFails, Control::ClockSeconds, Control::IndexFails] {
            self.control(what, 0);
        }
        let mut service = self.service.lock().await;
        let from = self.now();
        service.kill();
        power::forget(&self.undo());
        service.restart().await;
        self.was_down(from);
        drop(service);
    }

    pub async fn settled(&self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let stats = self.service.lock().await.stats().await;
            if stats.pending_events == 0 && stats.pending_snapshots == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("not everything came into ImmuDB: {stats:?}"));
            }
            let mut immudb = self.immudb.lock().await;
            if immudb.has_ended() {
                immudb.restart_without_indexes().await;
            }
            drop(immudb);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Keeps the directory for inspection, or removes it.
    pub async fn end(&self, keep: bool) {
        let mut service = self.service.lock().await;
        service.kill();
        self.immudb.lock().await.kill();
        if keep {
            let copied =
                Command::new("cp").arg("-r").arg(service.dir()).arg(self.folder.join("service")).status();
            assert!(copied.unwrap().success());
        } else {
            fs::remove_dir_all(&self.folder).unwrap();
        }
    }
}

/// Starts ImmuDB on a separate disk if the machine allows it, because that disk can be full.
async fn start_immudb(dir: &Path) -> ImmuDb {
    let mut immudb = match ImmuDb::start_on_disk(dir, DISK_MEBIBYTES).await {
        Some(immudb) => immudb,
        None => ImmuDb::start(dir).await,
    };
    immudb.change_password(PASSWORD);
    immudb
}

fn setup_of_second(immudb_port: u16) -> Setup {
    Setup::with_immudb(immudb_port)
        .set("immudb", &format!("password: {PASSWORD}"))
        .set("proof", "checkpoint_every: 1.0")
        .set("audit", "events_per_second: 2000")
}

/// Returns the state once it is as wanted, or otherwise the last one that was seen. Returns `None`
/// if the service does not answer.
pub async fn state_within(
    service: &Service,
    time: Duration,
    wanted: impl Fn(State) -> bool,
) -> Option<State> {
    let end = Instant::now() + time;
    let mut client = service.client();
    let mut last = None;
    while Instant::now() < end {
        let answer = tokio::time::timeout(Duration::from_secs(1), client.stats(StatsRequest {})).await;
        if let Ok(Ok(answer)) = answer {
            last = Some(answer.into_inner().state());
        }
        if last.is_some_and(&wanted) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    last
}
