//! The real program for one test: its own process, with its own directory and port.
//!
//! It can be killed, stopped, paused and restarted on the same storage. Its log goes to
//! `service.log` in the directory. Dropping the value ends the process.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use aethyr_event_store::{
    crash_point::CrashPoint,
    grpc::wire::{State, StatsRequest, StatsResponse, event_store_service_client::EventStoreServiceClient},
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{immudb::disk::Disk, paths, preloaded};

/// How long a test waits for a condition that must come true. Only a failing test waits that long:
/// the machine may be busy with other work.
pub const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);

/// The sections of the configuration.
const SECTIONS: [&str; 9] =
    ["server", "access", "event_sourcing", "world", "immudb", "proof", "audit", "limits", "logging"];

pub type Client = EventStoreServiceClient<Channel>;

/// The configuration of a service, on top of the defaults.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    immudb_port: Option<u16>,
    /// YAML lines: the section, then the key with its value.
    keys: Vec<(String, String)>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// Without checkpoints and without the auditor, which would write and find something at any
    /// time: a test that is about them sets their keys.
    pub fn local() -> Self {
        Self::default()
            .set("event_sourcing", "event_files: false")
            .set("proof", "checkpoint_every: 3600.0")
            .set("audit", "events_per_second: 0")
    }

    /// Sets every deadline out of reach: an ImmuDB that is up commits in time, however busy the
    /// machine is, and one that is gone is noticed at once. A test with an ImmuDB that hangs sets
    /// shorter deadlines itself.
    pub fn with_immudb(port: u16) -> Self {
        let setup = Self::with_default_deadlines(port);
        ["fallback_after: 60.0", "connect_timeout: 60.0", "request_timeout: 60.0"]
            .into_iter()
            .fold(setup, |setup, line| setup.set("immudb", line))
    }

    /// Keeps the default deadlines, to measure how long clients wait.
    pub fn with_default_deadlines(port: u16) -> Self {
        Self { immudb_port: Some(port), ..Self::local() }
    }

    /// Sets a key of a section, written as in the YAML file. A later value overrides an earlier
    /// one.
    #[must_use]
    pub fn set(mut self, section: &str, line: &str) -> Self {
        self.keys.push((section.to_owned(), line.to_owned()));
        self
    }

    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// Makes the process die at this point.
    #[must_use]
    pub fn crash_at(self, point: CrashPoint) -> Self {
        self.environment(CrashPoint::VARIABLE, point.name())
    }

    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces system functions with those of a C source file, whose path is relative to the
    /// project root.
    pub fn preload(self, source: &str) -> Self {
        self.environment("LD_PRELOAD", preloaded::library(source).to_str().unwrap())
    }

    fn yaml(&self) -> String {
        let mut keys = vec![
            ("server".to_owned(), "listen: 127.0.0.1:0".to_owned()),
            // Shorter than the patience of a test, and longer than any shutdown takes.
            ("server".to_owned(), "shutdown_grace: 120.0".to_owned()),
            ("event_sourcing".to_owned(), "enabled: true".to_owned()),
            ("limits".to_owned(), "disk_free_min: 1048576".to_owned()),
        ];
        keys.extend(self.immudb_port.map(|port| ("immudb".to_owned(), format!("port: {port}"))));
        keys.extend(self.keys.clone());
        let mut yaml = String::new();
        for section in SECTIONS {
            let lines: Vec<&String> =
                keys.iter().filter(|(name, _)| name == section).map(|(_, line)| line).collect();
            let name = |line: &str| line.split(':').next().map(str::to_owned);
            // Compare by address: another line may have the same text.
            let last = |line: &&&String| {
                lines
                    .iter()
                    .rfind(|other| name(other) == name(line))
                    .is_some_and(|other| std::ptr::eq(*other, **line))
            };
            let kept: Vec<String> = lines.iter().filter(last).map(|line| format!("  {line}\n")).collect();
            if !kept.is_empty() {
                yaml.push_str(&format!("{section}:\n{}", kept.concat()));
            }
        }
        yaml
    }
}

pub struct Service {
    dir: TempDir,
    setup: Setup,
    port: u16,
    process: Option<Child>,
    /// The disk that holds the storage, if it is not the machine's own.
    disk: Option<Disk>,
    /// A shell command that runs before the program.
    shell: Option<String>,
}

impl Service {
    /// Starts in a new directory and waits until it serves.
    pub async fn start(setup: Setup) -> Self {
        let mut service = Self::new(setup);
        service.restart().await;
        service
    }

    /// Starts in a new directory and waits only until it listens.
    pub fn launched(setup: Setup) -> Self {
        let mut service = Self::new(setup);
        service.launch();
        service
    }

    /// Creates only the directory and the configuration; nothing runs yet.
    pub fn new(setup: Setup) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), setup, port: 0, process: None, disk: None, shell: None }
    }

    /// Puts the storage on a separate disk, which can be filled up. Returns false if this machine
    /// does not allow one.
    pub fn use_disk(&mut self, mebibytes: u32) -> bool {
        fs::create_dir_all(self.storage()).unwrap();
        self.disk = Disk::mount(&self.storage(), mebibytes);
        self.disk.is_some()
    }

    pub fn use_open_files(&mut self, max: u32) {
        self.shell = Some(format!("ulimit -n {max}"));
    }

    pub fn use_umask(&mut self, umask: &str) {
        self.shell = Some(format!("umask {umask}"));
    }

    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().unwrap()
    }

    /// Starts on the existing directory and waits until it serves.
    pub async fn restart(&mut self) {
        self.launch();
        let until = Instant::now() + PATIENCE;
        while self.health("").await != Some(true) {
            let ended = self.ended();
            assert!(ended.is_none(), "the service ended with {ended:?}:\n{}", self.log());
            assert!(Instant::now() < until, "the service does not serve:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts and waits only until it listens.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        self.configure();
        let log = File::create(self.dir.path().join("service.log")).unwrap();
        let mut command = self.command(&[]);
        if self.setup.arguments.is_empty() {
            command.arg("serve");
        }
        command.args(&self.setup.arguments).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        self.port = self.listening();
    }

    /// Starts, and waits until the process ends by itself, before or after it listens.
    pub fn launch_and_crash(&mut self) -> ExitStatus {
        self.configure();
        let log = File::create(self.dir.path().join("service.log")).unwrap();
        self.process = Some(self.command(&["serve"]).stderr(log).spawn().unwrap());
        self.wait()
    }

    pub fn reconfigure(&mut self, setup: Setup) {
        self.setup = setup;
    }

    fn configure(&self) {
        fs::create_dir_all(self.dir.path().join("conf")).unwrap();
        fs::write(self.dir.path().join("conf/server.yml"), self.setup.yaml()).unwrap();
    }

    /// Returns a command that runs the program with these arguments in the directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.configure();
        let program = paths::program();
        let mut command = match &self.disk {
            Some(disk) => {
                // Entering the namespace changes the working directory.
                let mut command = disk.command(Path::new("sh"));
                command.args(["-c", "cd \"$1\" && shift && exec \"$@\"", "sh"]);
                command.arg(self.dir.path()).arg(program);
                command
            }
            None => match &self.shell {
                Some(shell) => {
                    let mut command = Command::new("sh");
                    command.args(["-c", &format!("{shell} && exec \"$@\""), "sh"]).arg(program);
                    command
                }
                None => Command::new(program),
            },
        };
        forget_settings(&mut command);
        command.current_dir(self.dir.path()).args(arguments).stdin(Stdio::null());
        command.envs(self.setup.environment.clone());
        command
    }

    /// Runs a command that ends by itself. Returns whether it succeeded, and what it printed to
    /// stderr.
    pub fn run(&self, arguments: &[&str]) -> (bool, String) {
        let path = self.dir.path().join("command.log");
        let mut process = self.command(arguments).stderr(File::create(&path).unwrap()).spawn().unwrap();
        let said = || fs::read_to_string(&path).unwrap();
        let status =
            wait_for_end(&mut process).unwrap_or_else(|| panic!("{arguments:?} does not end:\n{}", said()));
        (status.success(), said())
    }

    /// Returns the port from the log line that names the listening address.
    fn listening(&mut self) -> u16 {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("listening address="));
            if let Some(port) =
                line.and_then(|line| line.rsplit(':').next()?.trim_end_matches(')').parse().ok())
            {
                return port;
            }
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(ended.is_none(), "the service ended with {ended:?}:\n{log}");
            assert!(Instant::now() < until, "the service does not listen:\n{log}");
            std::thread::sleep(POLL);
        }
    }

    /// Returns the id of the running process.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address for commands that ask the service.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn storage(&self) -> PathBuf {
        self.dir.path().join("storage")
    }

    /// Returns the segments of the local log, in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.storage().join("log")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "segment");
        let mut found: Vec<PathBuf> = paths.filter(is_segment).collect();
        found.sort();
        found
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("service.log")).unwrap_or_default()
    }

    /// Waits for a condition that the test itself can check.
    pub async fn wait_until(&self, what: &str, come_true: impl AsyncFn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !come_true().await {
            assert!(Instant::now() < until, "{what} did not come true:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the log contains this text.
    pub async fn wait_for_log(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "{text:?} is not in the log:\n{}", self.log());
            tokio::time::sleep(POLL / 10).await;
        }
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap().connect_lazy()
    }

    pub fn client(&self) -> Client {
        EventStoreServiceClient::new(self.channel())
    }

    /// Returns the stats, once the service has opened its storage.
    pub async fn stats(&self) -> StatsResponse {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client().stats(StatsRequest {}).await {
                Ok(stats) => return stats.into_inner(),
                Err(status) if super::events::reason(&status) == "STARTING" && Instant::now() < until => {
                    tokio::time::sleep(POLL).await;
                }
                Err(status) => panic!("{status:?}"),
            }
        }
    }

    /// Waits until the stats are as wanted, and returns them.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&StatsResponse) -> bool) -> StatsResponse {
        let until = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats().await;
            if wanted(&stats) {
                return stats;
            }
            assert!(Instant::now() < until, "{what} did not come true: {stats:#?}\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn wait_for_state(&self, state: State) -> StatsResponse {
        self.wait_for(state.as_str_name(), |stats| stats.state() == state).await
    }

    /// Waits until everything is in ImmuDB.
    pub async fn wait_until_forwarded(&self) -> StatsResponse {
        self.wait_for("everything is in ImmuDB", |stats| {
            stats.state() == State::Connected && stats.pending_events == 0 && stats.pending_snapshots == 0
        })
        .await
    }

    pub async fn health(&self, service: &str) -> Option<bool> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(self.channel()).check(request).await.ok()?;
        Some(answer.into_inner().status == tonic_health::ServingStatus::Serving as i32)
    }

    pub async fn wait_for_health(&self, service: &str, serving: bool) {
        let until = Instant::now() + PATIENCE;
        while self.health(service).await != Some(serving) {
            assert!(Instant::now() < until, "health of {service:?} is not {serving}:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    /// Returns how the process ended, if it ended by itself. It can then be started again.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().unwrap()?;
        self.process = None;
        Some(status)
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until the process has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        wait_for_end(&mut process).unwrap_or_else(|| panic!("the service does not end:\n{}", self.log()))
    }

    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
    }
}

/// Returns a command that runs the program in any directory, without a configuration. `before` is
/// a command that runs another one, or nothing.
pub fn program_in(folder: &Path, before: &[&str]) -> Command {
    let program = paths::program();
    let mut command = match before {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    forget_settings(&mut command);
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// Removes the settings in the environment of the test.
fn forget_settings(command: &mut Command) {
    for (name, _) in std::env::vars() {
        if name.starts_with("AETHYR_") || name.starts_with("IMMUDB_") {
            command.env_remove(name);
        }
    }
}

/// Returns `None` if the process had to be killed.
fn wait_for_end(process: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(POLL);
    }
    process.kill().unwrap();
    process.wait().unwrap();
    None
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the service's log:\n{}", self.log());
        }
        self.kill();
    }
}
