//! When the machine, or this test, did not get to run what was due: nobody's wait proves anything then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::{history::At, world::Clock};

const EVERY: Duration = Duration::from_millis(20);
/// Later than this is a stall.
const LATE: Duration = Duration::from_millis(100);

/// A task that sleeps again and again, beside the callers and the proxy, and notes when it is woken too late.
pub struct Stalls {
    ending: Arc<AtomicBool>,
    noting: JoinHandle<Vec<(At, At)>>,
}

impl Stalls {
    pub fn note(clock: Clock) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let ended = ending.clone();
        let noting = tokio::spawn(async move {
            let mut stalls = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let due = clock.now() + EVERY;
                tokio::time::sleep(EVERY).await;
                let woken = clock.now();
                if woken > due + LATE {
                    stalls.push((due, woken));
                }
            }
            stalls
        });
        Self { ending, noting }
    }

    pub async fn end(self) -> Vec<(At, At)> {
        self.ending.store(true, Ordering::SeqCst);
        self.noting.await.unwrap()
    }
}
