//! An open loop: calls are due at fixed times, whether or not previous calls have been answered.
//!
//! The latency of a call counts from the time at which it was due. A stall therefore counts for
//! every call that it delays, and not only for one.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, unbounded_channel},
    },
    task::JoinSet,
};

use super::{Caller, closed::gather};
use crate::{
    outcome::Outcome,
    statistics::{Latencies, latencies},
};

/// A call that is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    number: u64,
    at: Instant,
}

/// Announces calls as they become due, for a given time or until it is stopped.
pub struct Pacer {
    due: Rc<Mutex<UnboundedReceiver<Due>>>,
    stopped: Arc<AtomicBool>,
}

impl Pacer {
    pub fn start(calls_per_second: f64, length: Duration) -> Self {
        let (tx, rx) = unbounded_channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        // Uses a separate thread, because the timer of the runtime is too coarse.
        thread::spawn(move || {
            let begin = Instant::now();
            for number in 0.. {
                let after = Duration::from_secs_f64(number as f64 / calls_per_second);
                let at = begin + after;
                if after >= length || stop.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(at.saturating_duration_since(Instant::now()));
                if tx.send(Due { number, at }).is_err() {
                    return;
                }
            }
        });
        Self { due: Rc::new(Mutex::new(rx)), stopped }
    }

    /// Returns the flag that stops the pacer.
    pub fn stopper(&self) -> Arc<AtomicBool> {
        self.stopped.clone()
    }
}

/// A completed call.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub due: Instant,
    pub latency: Duration,
}

/// Makes each call when it is due, with any free caller. The number of the call is stored in its
/// payload, and passed to `began` with the time at which the call is sent.
pub async fn append(
    callers: Vec<Caller>,
    pacer: Pacer,
    began: impl Fn(u64, Instant) + Clone + 'static,
) -> Outcome<(Vec<Caller>, Vec<Sample>)> {
    let mut running = JoinSet::new();
    for mut caller in callers {
        let (due, began) = (pacer.due.clone(), began.clone());
        running.spawn_local(async move {
            let mut samples = Vec::new();
            loop {
                let next = due.lock().await.recv().await;
                let Some(Due { number, at }) = next else { return Ok((caller, samples)) };
                began(number, Instant::now());
                caller.append(Some(number)).await?;
                samples.push(Sample { due: at, latency: at.elapsed() });
            }
        });
    }
    let (callers, samples): (Vec<_>, Vec<_>) = gather(running).await?.into_iter().unzip();
    Ok((callers, samples.concat()))
}

/// Returns the latencies of the calls that were due between `from` and `to`.
pub fn between(samples: &[Sample], from: Instant, to: Instant) -> Latencies {
    let mut all = latencies();
    for sample in samples.iter().filter(|sample| (from..to).contains(&sample.due)) {
        all.saturating_record(sample.latency.as_nanos() as u64);
    }
    all
}
