//! Rate limiting of repeated log messages: an occurrence is logged at most once a minute, together
//! with the number of occurrences since the last message.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Notice {
    count: u64,
    logged: Option<Instant>,
}

impl Notice {
    const EVERY: Duration = Duration::from_secs(60);

    /// Adds `count` occurrences. If a message is due now, returns the number of occurrences that
    /// have not been logged yet.
    pub(super) fn add(&mut self, count: u64) -> Option<u64> {
        self.count = self.count.saturating_add(count);
        let is_due = self.logged.is_none_or(|logged| logged.elapsed() >= Self::EVERY);
        if self.count == 0 || !is_due {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn once_a_minute_with_a_count() {
        let mut notice = Notice::default();
        assert_eq!([notice.add(0), notice.add(1), notice.add(2), notice.add(3)], [None, Some(1), None, None]);
        tokio::time::advance(Notice::EVERY).await;
        assert_eq!([notice.add(0), notice.add(0), notice.add(1)], [Some(5), None, None]);
    }
}
