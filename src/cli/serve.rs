//! `serve`: runs the service until a signal ends it, and reads what may change meanwhile again at SIGHUP.

use std::{
    path::Path,
    process::ExitCode,
    task::{Context, Poll},
    time::Duration,
};

use rustix::process::Signal as Number;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{error, info, warn};

use super::{
    EXIT_USAGE, environment,
    permissions::{self, OutOfReach, TooWide},
    say,
};
use crate::{
    config::{Config, Loaded},
    log,
    server::{self, Options},
    telemetry,
};

/// So long a thread for reads stays without one.
const BLOCKING_KEPT: Duration = Duration::from_secs(1);
/// More than there are places for work that waits for the disk. A thread that has just given its place back is not free yet:
/// without this, the next piece of work would begin another.
const BLOCKING_MAX: usize = 80;

pub fn serve(loaded: Loaded, options: Options) -> ExitCode {
    let guard = match telemetry::init(&loaded.config.logging) {
        Ok(guard) => guard,
        Err(error) => {
            say(&format!("aethyr-event-store: {error}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let log_path = &loaded.config.event_sourcing.log_path;
    if log::begins_anew(log_path) {
        let path = std::path::absolute(log_path).unwrap_or_else(|_| log_path.clone());
        info!("new, empty log at {}", path.display());
    }
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    for OutOfReach { key, path, owner, user, command } in permissions::out_of_reach(&loaded.config) {
        let path = path.display();
        warn!(key, %path, owner, user, "it belongs to another user, and this one can't use it; to mend it: {command}");
    }
    for TooWide { key, path, command } in permissions::too_wide(&loaded.config) {
        warn!(key, path = %path.display(), "other users can read what is there; to mend it: {command}");
    }
    // Threads for reads end soon after a crowd of them: the next ones would keep all of them alive.
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(BLOCKING_KEPT)
        .max_blocking_threads(BLOCKING_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let file = loaded.file.unwrap_or_default();
    let reload = Reload { file: &file, in_force: loaded.config.clone(), guard: &guard };
    let options = Options { config_file: file.clone(), ..options };
    let ended = runtime.block_on(until_signalled(loaded.config, options, &reload));
    // Whatever still runs after a second signal is left behind.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn until_signalled(config: Config, options: Options, reload: &Reload<'_>) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|error| format!("signals can't be handled: {error}"))?;
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| not_bound(listen, &error))?;
    let (first, second) = tokio::sync::oneshot::channel::<()>();
    let served = server::run(config, options, listener, async {
        // Without a sender nobody can ask for the end, which is not meant.
        if second.await.is_err() {
            std::future::pending().await
        }
    });
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => return ended.map_err(|error| error.to_string()),
        signal = signals.end(reload) => info!(signal, "signal received"),
    }
    let _ = first.send(());
    tokio::select! {
        ended = &mut served => ended.map_err(|error| error.to_string()),
        signal = signals.end(reload) => Err(format!("left at once at a second signal ({signal})")),
    }
}

fn not_bound(listen: std::net::SocketAddr, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let hint = match error.kind() {
        ErrorKind::AddrInUse => "; another process, maybe another event store, listens there",
        ErrorKind::AddrNotAvailable => "; this machine has no such address",
        ErrorKind::PermissionDenied => "; this user may not take that port",
        _ => "",
    };
    format!("server.listen ({listen}): {error}{hint}")
}

/// Signals that end a process that does not handle them.
const ENDING: &[(&str, Number)] = &[
    ("SIGTERM", Number::TERM),
    ("SIGINT", Number::INT),
    ("SIGQUIT", Number::QUIT),
    ("SIGUSR1", Number::USR1),
    ("SIGUSR2", Number::USR2),
    ("SIGALRM", Number::ALARM),
    ("SIGVTALRM", Number::VTALARM),
    ("SIGPROF", Number::PROF),
    ("SIGIO", Number::IO),
    #[cfg(target_os = "linux")]
    ("SIGPWR", Number::POWER),
    #[cfg(target_os = "linux")]
    ("SIGSTKFLT", Number::STKFLT),
    ("SIGXCPU", Number::XCPU),
];

/// The real-time signals, of which the first two are the threads' own. All of them would kill. Where there are none, handling
/// them is refused.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// All of them are handled: a process that is killed does not release the head, and another writer starts fenced.
struct Signals {
    ending: Vec<(&'static str, Signal)>,
    hangup: Signal,
    /// A file has reached the size that this process may write. The write fails, too, and says so.
    _file_size: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let handle = |number: Number| signal(SignalKind::from_raw(number.as_raw()));
        let ending = ENDING.iter().map(|(name, number)| Ok((*name, handle(*number)?)));
        let mut ending = ending.collect::<std::io::Result<Vec<_>>>()?;
        // The C library may keep another for itself.
        let real_time = REAL_TIME.filter_map(|number| signal(SignalKind::from_raw(number)).ok());
        ending.extend(real_time.map(|signal| ("a real-time signal", signal)));
        Ok(Self { ending, hangup: handle(Number::HUP)?, _file_size: handle(Number::XFSZ)? })
    }

    /// The next signal that asks for the end. What may change meanwhile is read again at each SIGHUP.
    async fn end(&mut self, reload: &Reload<'_>) -> &'static str {
        loop {
            let ending = std::future::poll_fn(|cx| Self::poll_ending(&mut self.ending, cx));
            tokio::select! {
                name = ending => return name,
                _ = self.hangup.recv() => reload.now(),
            }
        }
    }

    fn poll_ending(ending: &mut [(&'static str, Signal)], cx: &mut Context<'_>) -> Poll<&'static str> {
        for (name, signal) in ending {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(*name);
            }
        }
        Poll::Pending
    }
}

/// What SIGHUP does: the log file is opened again, and `logging.level` is read again.
struct Reload<'a> {
    file: &'a Path,
    /// As the service was started.
    in_force: Config,
    guard: &'a telemetry::Guard,
}

impl Reload<'_> {
    fn now(&self) {
        self.guard.reopen();
        match Config::load(Some(self.file), environment()) {
            Ok(loaded) => {
                let level = &loaded.config.logging.level;
                match self.guard.filter(level) {
                    Ok(()) => info!(logging.level = level, "SIGHUP: the log file is opened again"),
                    Err(error) => {
                        error!(%error, "SIGHUP: the log file is opened again, and logging.level stays")
                    }
                }
                for key in loaded.config.changes_since(&self.in_force) {
                    if key != "logging.level" {
                        warn!(key, "the configuration has changed here; it is in force after a restart");
                    }
                }
            }
            Err(error) => {
                error!(
                    "SIGHUP: the log file is opened again, and the configuration stays as it was: {error}"
                );
            }
        }
    }
}
