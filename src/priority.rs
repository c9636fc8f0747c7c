//! Threads that get what nobody else wants of the processor: those whose work may wait, beside those for whom callers
//! wait.

/// Lowers this thread to the lowest priority. Elsewhere than on Linux priorities are those of processes, and it stays.
pub fn lowest() {
    #[cfg(target_os = "linux")]
    lower();
}

#[cfg(target_os = "linux")]
fn lower() {
    const LOWEST: i32 = 19;
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), LOWEST) {
        tracing::warn!(thread = std::thread::current().name(), %error, "a thread runs at ordinary priority");
    }
}
