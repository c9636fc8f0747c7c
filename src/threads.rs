//! Named threads, whose end can be awaited, and their priority.

use std::{io, thread};

use tokio::sync::oneshot;

/// Resolves to what the thread returned, or to an error if it panicked.
pub(crate) type ThreadEnd<T> = oneshot::Receiver<T>;

/// Starts a named thread.
///
/// # Errors
/// Returns an error if the thread cannot be started.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<(thread::Thread, ThreadEnd<T>)> {
    let (ended, end) = oneshot::channel();
    let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // A panic drops the sender.
        _ = ended.send(run());
    })?;
    Ok((started.thread().clone(), end))
}

/// Sets this thread to the lowest priority. Does nothing except on Linux: elsewhere, priorities
/// apply to whole processes.
pub(crate) fn lower_priority() {
    #[cfg(target_os = "linux")]
    set_lowest();
}

#[cfg(target_os = "linux")]
fn set_lowest() {
    const LOWEST: i32 = 19;
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), LOWEST) {
        tracing::warn!(thread = std::thread::current().name(), %error, "a thread runs at ordinary priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_thread_is_reported_and_so_is_a_panic() {
        let (thread, end) = spawn("counting", || 17).unwrap();
        assert_eq!((thread.name(), end.await), (Some("counting"), Ok(17)));
        let (_, end) = spawn("panicking", || panic!("on purpose")).unwrap();
        let ended: Result<(), _> = end.await;
        assert!(ended.is_err());
    }
}
