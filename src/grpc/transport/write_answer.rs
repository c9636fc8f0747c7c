//! Reserves the bytes of the response to a write.
//!
//! They are reserved before the write begins. Clients that read their responses take precedence
//! over those that do not.

use std::time::Duration;

use super::concurrency::Admitted;
use crate::shared_limit::LimitReached;

/// The size of a slice: at most one HTTP/2 frame.
pub const SLICE_BYTES: usize = 16 * 1024;

/// The fixed part of the response to a write, in addition to the part that grows with the write.
const ANSWER_OWN_BYTES: usize = 256;

/// Reserves the maximum bytes of the response to a write before the write begins: once it is done,
/// its response must not be withheld. `bytes` is the encoded size of the part that grows with the
/// write. A client that reads its responses waits a while for room. A client that does not is
/// rejected if less than half would be left.
///
/// # Errors
/// Returns an error if the bytes are not available. Nothing has been written in this case.
pub async fn reserve_answer(call: &Admitted, bytes: usize) -> Result<(), LimitReached> {
    const PAUSE_MIN: Duration = Duration::from_millis(20);
    /// All pauses together are longer than a connection is kept that does not read its responses
    /// while there is no room for them.
    const PAUSE_MAX: Duration = Duration::from_millis(1280);
    let bytes = bytes.saturating_add(ANSWER_OWN_BYTES);
    let copied = if bytes <= SLICE_BYTES { 0 } else { SLICE_BYTES };
    // As a message, and in encoded form.
    let bytes = bytes.saturating_mul(2).saturating_add(copied);
    let mut pause = PAUSE_MIN;
    loop {
        if call.peer.write_unread_since().is_some_and(|since| since.elapsed() >= READ_AT_ONCE) {
            return call.answer.try_resize_within_half(bytes);
        }
        match call.answer.try_resize(bytes) {
            Ok(()) => return Ok(()),
            Err(full) if pause > PAUSE_MAX => return Err(full),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// The time within which a client that has sent a write starts to read its response.
const READ_AT_ONCE: Duration = Duration::from_millis(250);
