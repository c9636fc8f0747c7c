//! A real ImmuDB server for one test: its own process, with its own port and directory.
//!
//! It can be killed, stopped, paused and restarted with the same data on the same port. Its output
//! goes to `immudb.log` in the directory. Dropping the value ends the process.

pub mod disk;
pub mod other_client;
mod programs;
pub mod signing;

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use aethyr_event_store::{
    immudb::{ErrorKind, Session, SessionSettings},
    secret::Secret,
};
use disk::Disk;
use rustix::process::{Pid, Signal, kill_process};

use super::{port::Port, service::PATIENCE};

const POLL: Duration = Duration::from_millis(20);

/// The address space of a server. ImmuDB 1.11.1 needs about 2 GiB of it. With a damaged index it
/// allocates memory until the machine has none.
const ADDRESS_SPACE_KIBIBYTES_MAX: u32 = 8 * 1024 * 1024;

pub struct ImmuDb {
    dir: PathBuf,
    /// Stays reserved while the server is down.
    port: Port,
    flags: Vec<String>,
    password: String,
    /// A separate file system, mounted on `dir`.
    disk: Option<Disk>,
    process: Option<Child>,
}

impl ImmuDb {
    /// Returns the path of the server program, which is built on first use.
    pub fn binary() -> &'static Path {
        programs::server()
    }

    /// Returns the path of the program that puts load on the server through ImmuDB's own client. It
    /// is built on first use.
    pub fn load_program() -> &'static Path {
        programs::load()
    }

    /// Starts a server that keeps its data in `dir`, and waits until it answers.
    pub async fn start(dir: &Path) -> ImmuDb {
        ImmuDb::start_with(dir, &[]).await
    }

    /// Starts a server with additional ImmuDB flags, such as `--session-timeout=1s` together with
    /// `--sessions-guard-check-interval=100ms`.
    pub async fn start_with(dir: &Path, flags: &[&str]) -> ImmuDb {
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut immudb = ImmuDb::new(dir);
        immudb.flags = flags;
        immudb.start_somewhere().await
    }

    /// Starts a server on a separate file system of `mebibytes` MiB in `dir`, which is removed with
    /// the value. Returns `None` if this machine does not allow creating one.
    pub async fn start_on_disk(dir: &Path, mebibytes: u32) -> Option<ImmuDb> {
        fs::create_dir_all(dir).expect("a folder for ImmuDB");
        let mut immudb = ImmuDb::new(dir);
        immudb.disk = Some(Disk::mount(dir, mebibytes)?);
        Some(immudb.start_somewhere().await)
    }

    fn new(dir: &Path) -> ImmuDb {
        let password = "immudb".to_owned();
        ImmuDb {
            dir: dir.to_owned(),
            port: Port::free(),
            flags: Vec::new(),
            password,
            disk: None,
            process: None,
        }
    }

    async fn start_somewhere(mut self) -> ImmuDb {
        let immudb = &mut self;
        // Another process may take the port before the server does.
        for _ in 0..3 {
            immudb.spawn();
            if immudb.ready().await {
                return self;
            }
            immudb.port = Port::free();
        }
        panic!("ImmuDB ends at once:\n{}", immudb.log());
    }

    /// Returns the process id while the server runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns the directory with the data of all databases.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Returns settings for a client that logs in as the administrator, with timeouts that no
    /// running server exceeds.
    pub fn settings(&self, database: &str) -> SessionSettings {
        SessionSettings {
            address: Ipv4Addr::LOCALHOST.to_string(),
            port: self.port(),
            username: "immudb".into(),
            password: Secret::new(self.password.clone()),
            password_file: None,
            tls: None,
            database: database.into(),
            connect_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(60),
            response_bytes_max: 64 * 1024 * 1024,
        }
    }

    /// Kills the server with SIGKILL: nothing is finished or flushed.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("ImmuDB can be killed");
            process.wait().expect("ImmuDB ends");
        }
    }

    /// Asks the server to shut down and waits until it has. Kills it if it does not, as an operator
    /// would: now and then ImmuDB 1.11.1 hangs in its shutdown.
    pub async fn stop(&mut self) {
        const SHUTDOWN_MAX: Duration = Duration::from_secs(60);
        self.signal(Signal::TERM);
        let mut process = self.process.take().expect("ImmuDB runs");
        if ended(&mut process, SHUTDOWN_MAX).await.is_none() {
            _ = writeln!(io::stderr(), "ImmuDB did not shut down and is killed:\n{}", self.log());
            process.kill().expect("ImmuDB can be killed");
            process.wait().expect("ImmuDB ends");
        }
    }

    /// Restarts the server with the same data on the same port. Stops it first if it still runs.
    pub async fn restart(&mut self) {
        assert!(self.try_restart().await, "ImmuDB ends at once:\n{}", self.log());
    }

    /// Like [`ImmuDb::restart`]. Returns false if the server ends before it answers.
    pub async fn try_restart(&mut self) -> bool {
        if self.process.is_some() {
            self.stop().await;
        }
        self.spawn();
        self.ready().await
    }

    /// Returns whether the server has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some())
    }

    /// Removes the indexes of all databases, and starts the server, which rebuilds them from its
    /// transactions. This is the remedy for a damaged index.
    pub async fn restart_without_indexes(&mut self) {
        self.kill();
        let mut command = self.on_disk(Path::new("sh"));
        command.args(["-c", "rm -r \"$1\"/*/index_*", "sh"]).arg(self.data());
        assert!(command.status().expect("sh can be started").success(), "the indexes cannot be removed");
        self.restart().await;
    }

    /// Restarts the server with other flags.
    pub async fn restart_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(ToString::to_string).collect();
        self.restart().await;
    }

    /// Makes the server hang: its connections stay open, the kernel still accepts new ones, and
    /// nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        // The signal reaches each thread on its own, and a call may still be answered meanwhile.
        let process = self.process_id().expect("ImmuDB runs");
        while !threads_are_stopped(process) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Returns the separate disk, if the server has one.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Changes the administrator's password. Open sessions stay open.
    pub fn change_password(&mut self, password: &str) {
        self.reader(&["change-password", password]);
        password.clone_into(&mut self.password);
    }

    /// Runs `tests/immudb/reader`, which uses ImmuDB's own client, and returns one JSON object for
    /// each line that it prints. An example of `arguments` is `["--database", "aethyr", "scan",
    /// "event:"]`.
    pub fn reader(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let mut objects = Vec::new();
        self.read(arguments, |object| objects.push(object));
        objects
    }

    /// Like [`ImmuDb::reader`], for results that are too large to keep in memory.
    pub fn read(&self, arguments: &[&str], mut each: impl FnMut(serde_json::Value)) {
        let mut reader = Command::new(programs::reader())
            .args(["--port", &self.port().to_string(), "--password", &self.password])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the reader can be started");
        for line in BufReader::new(reader.stdout.take().expect("a pipe")).lines() {
            each(serde_json::from_str(&line.expect("the reader prints UTF-8")).expect("JSON"));
        }
        let output = reader.wait_with_output().expect("the reader ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "reader {arguments:?}: {errors}");
    }

    fn spawn(&mut self) {
        fs::create_dir_all(&self.dir).expect("a folder for ImmuDB");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.on_disk(Path::new("sh"));
        command.args(["-c", "ulimit -v \"$1\" && shift && exec \"$@\"", "sh"]);
        command.arg(ADDRESS_SPACE_KIBIBYTES_MAX.to_string()).arg(ImmuDb::binary());
        // Otherwise, a server without memory writes the stacks of millions of goroutines.
        command.env("GOTRACEBACK", "none");
        for (name, _) in env::vars_os().filter(|(name, _)| is_immudb_setting(name)) {
            command.env_remove(name);
        }
        command
            .current_dir(&self.dir)
            .arg("--dir")
            .arg(self.data())
            .args(["--address", "127.0.0.1", "--port", &self.port().to_string()])
            .args(["--pgsql-server=false", "--web-server=false", "--metrics-server=false"])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.process = Some(command.spawn().expect("ImmuDB can be started"));
    }

    /// Returns a command that sees the separate disk, if the server has one.
    fn on_disk(&self, program: &Path) -> Command {
        match &self.disk {
            None => Command::new(program),
            Some(disk) => disk.command(program),
        }
    }

    /// Waits until the server answers a login. Returns false if the server exits first.
    async fn ready(&mut self) -> bool {
        let settings = SessionSettings {
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            ..self.settings("defaultdb")
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let process = self.process.as_mut().expect("ImmuDB was started");
            if process.try_wait().unwrap().is_some() {
                self.process = None;
                return false;
            }
            if self.flags.iter().any(|flag| flag.starts_with("--certificate")) {
                // The session of this test speaks clear text.
                if std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).is_ok() {
                    return true;
                }
                tokio::time::sleep(POLL).await;
                continue;
            }
            match Session::open(&settings).await {
                Ok(session) => {
                    session.close().await;
                    return true;
                }
                // The server answers, although its extra flags change the answer.
                Err(error) if error.kind == ErrorKind::Configuration => return true,
                Err(_) => {}
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("ImmuDB does not answer:\n{}", self.log());
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("ImmuDB runs");
        kill_process(Pid::from_child(process), signal).expect("ImmuDB takes a signal");
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("immudb.log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for ImmuDb {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Returns whether the kernel has stopped all threads of a process.
fn threads_are_stopped(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the process exists");
    let is_stopped = |stat: String| {
        // The name of the program, in parentheses, may contain anything.
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        state == Some('T')
    };
    threads.flatten().all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(is_stopped))
}

fn is_immudb_setting(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with("IMMUDB_")
}

async fn ended(process: &mut Child, max: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + max;
    while Instant::now() < deadline {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        tokio::time::sleep(POLL).await;
    }
    None
}
