//! The bytes of the answer to a write. They are reserved before the write is begun, and callers that read their answers
//! have them before those that do not.

use std::time::Duration;

use super::gate::Admitted;
use crate::shared_limit::Reached;

/// No more than a frame of HTTP/2.
pub const SLICE_BYTES: usize = 16 * 1024;

/// What the answer to a write has beside what grows with the write.
const ANSWER_OWN_BYTES: usize = 256;

/// Reserves what the answer to a write takes up at most, `bytes` of them encoded, before the write is begun: once it is
/// done its answer is not withheld. A caller that reads its answers waits a while for room; one that does not is refused
/// when less than half is left.
///
/// # Errors
/// There is not so much. Nothing is written yet.
pub async fn reserve_answer(call: &Admitted, bytes: usize) -> Result<(), Reached> {
    const PAUSE_MIN: Duration = Duration::from_millis(20);
    /// Together longer than a connection lasts that reads no answers while there is no room for them.
    const PAUSE_MAX: Duration = Duration::from_millis(1280);
    let bytes = bytes.saturating_add(ANSWER_OWN_BYTES);
    let copied = if bytes <= SLICE_BYTES { 0 } else { SLICE_BYTES };
    // As a message, and encoded.
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

/// Within this time a caller that has sent a write begins to read its answer.
const READ_AT_ONCE: Duration = Duration::from_millis(250);
