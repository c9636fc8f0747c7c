//! Threads that get what nobody else wants of the processor: those whose work may wait, beside those for whom callers
//! wait.

use tracing::warn;

/// Lowers this thread to the lowest priority.
pub fn lowest() {
    const LOWEST: i32 = 19;
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), LOWEST) {
        warn!(thread = std::thread::current().name(), %error, "a thread runs at ordinary priority");
    }
}
