//! `serve`: runs the service until a signal ends it.
//!
//! The first such signal stops the service cleanly, the second at once. SIGHUP reopens the log file
//! and reloads the part of the configuration that can change while the service runs, as well as its
//! identities and certificates.

use std::{
    io,
    path::Path,
    process::ExitCode,
    task::{Context, Poll},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, Signal as Number, setrlimit};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{error, info, warn};

use super::{
    EXIT_USAGE, Error, environment,
    permissions::{self, ExposedPath, InaccessiblePath},
    report,
};
use crate::{
    config::{Config, LoadedConfig},
    log,
    server::{self, BindError, ReloadSignal, ServerError, ServerOptions, settings},
    telemetry,
};

/// How long a blocking thread is kept while it is idle.
const BLOCKING_KEPT: Duration = Duration::from_secs(1);
/// More than the number of permits for work that waits for the disk. A thread that has just
/// released its permit is not idle yet, so without this limit the next piece of work would start
/// another thread.
const BLOCKING_MAX: usize = 80;

/// Why the service failed. Logged, unlike the errors of the other commands.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("cannot install signal handlers: {0}")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    NotBound(#[from] BindError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("exiting immediately after a second signal ({signal})")]
    SecondSignal { signal: &'static str },
}

pub(super) fn serve(loaded: LoadedConfig, options: ServerOptions) -> ExitCode {
    let guard = match telemetry::init(&settings::telemetry(&loaded.config.logging)) {
        Ok(guard) => guard,
        Err(error) => return report(&Error::Usage(error.into())),
    };
    if !loaded.config.server.core_dumps {
        disable_core_dumps();
    }
    let log_path = &loaded.config.event_sourcing.log_path;
    if log::is_new_log(log_path) {
        let path = std::path::absolute(log_path).unwrap_or_else(|_| log_path.clone());
        info!("new, empty log at {}", path.display());
    }
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    for InaccessiblePath { key, path, owner, user, command } in permissions::out_of_reach(&loaded.config) {
        let path = path.display();
        warn!(key, %path, owner, user, "path belongs to another user and cannot be used; to fix this, run: \
         {command}");
    }
    for ExposedPath { key, path, command } in permissions::too_wide(&loaded.config) {
        warn!(key, path = %path.display(), "path is accessible to other users; to fix this, run: {command}");
    }
    // Blocking threads end soon after a burst of reads. With a longer idle time, later reads would
    // keep all of them alive.
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(BLOCKING_KEPT)
        .max_blocking_threads(BLOCKING_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the async runtime");
            return ExitCode::FAILURE;
        }
    };
    let file = loaded.file.unwrap_or_default();
    let options = ServerOptions { config_file: file.clone(), ..options };
    let reload = Reload {
        file: &file,
        effective: loaded.config.clone(),
        guard: &guard,
        of_service: options.reload.clone(),
    };
    let ended = runtime.block_on(until_signalled(loaded.config, options, &reload));
    // Work that is still running after a second signal is abandoned.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            match error {
                ServeError::Server(ServerError::Access(_) | ServerError::Tls(_)) => {
                    ExitCode::from(EXIT_USAGE)
                }
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Keeps the passwords, keys and events in memory out of core files.
fn disable_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "cannot disable core dumps (server.core_dumps)");
    }
}

async fn until_signalled(
    config: Config,
    options: ServerOptions,
    reload: &Reload<'_>,
) -> Result<(), ServeError> {
    let mut signals = ProcessSignals::new().map_err(ServeError::Signals)?;
    let listeners = server::bind(&config.server.listen).await?;
    let (first, second) = tokio::sync::oneshot::channel::<()>();
    let served = server::run(config, options, listeners, async {
        // A dropped sender is not a request to shut down.
        if second.await.is_err() {
            std::future::pending().await
        }
    });
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => return Ok(ended?),
        signal = signals.end(reload) => info!(signal, "signal received"),
    }
    let _ = first.send(());
    tokio::select! {
        ended = &mut served => Ok(ended?),
        signal = signals.end(reload) => Err(ServeError::SecondSignal { signal }),
    }
}

/// Signals that terminate a process that does not handle them.
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

/// The real-time signals, except the first two, which the C library uses for its threads.
/// Unhandled, each of them terminates the process. Installing a handler fails on systems without
/// them.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Handles all signals that would terminate the process: a killed process does not release the
/// head, and another writer then starts fenced.
struct ProcessSignals {
    ending: Vec<(&'static str, Signal)>,
    hangup: Signal,
    /// A file has reached the size limit of this process. No action is needed, because the write
    /// fails as well and reports the error.
    _file_size: Signal,
}

impl ProcessSignals {
    fn new() -> io::Result<Self> {
        let handle = |number: Number| signal(SignalKind::from_raw(number.as_raw()));
        let ending = ENDING.iter().map(|(name, number)| Ok((*name, handle(*number)?)));
        let mut ending = ending.collect::<io::Result<Vec<_>>>()?;
        // The C library may reserve another one.
        let real_time = REAL_TIME.filter_map(|number| signal(SignalKind::from_raw(number)).ok());
        ending.extend(real_time.map(|signal| ("a real-time signal", signal)));
        Ok(Self { ending, hangup: handle(Number::HUP)?, _file_size: handle(Number::XFSZ)? })
    }

    /// Waits for the next signal that ends the service and returns its name. Meanwhile, reloads the
    /// configuration at each SIGHUP.
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

/// The action on SIGHUP: reopens the log file, reloads `logging.level`, and has the service reload
/// its identities and certificates. Other changes to the configuration are only reported.
struct Reload<'a> {
    file: &'a Path,
    /// The configuration that the service was started with.
    effective: Config,
    guard: &'a telemetry::Guard,
    of_service: ReloadSignal,
}

impl Reload<'_> {
    fn now(&self) {
        self.guard.reopen();
        self.of_service.send();
        match Config::load(Some(self.file), environment()) {
            Ok(loaded) => {
                let level = &loaded.config.logging.level;
                match self.guard.filter(level) {
                    Ok(()) => info!(
                        logging.level = level,
                        "SIGHUP: log file reopened, logging.level \
                     reloaded"
                    ),
                    Err(error) => {
                        error!(%error, "SIGHUP: log file reopened; logging.level unchanged")
                    }
                }
                for key in loaded.config.changes_since(&self.effective) {
                    if key != "logging.level" {
                        warn!(key, "configuration key changed; restart the service to apply it");
                    }
                }
            }
            Err(error) => {
                error!("SIGHUP: log file reopened; configuration not reloaded: {error}");
            }
        }
    }
}
