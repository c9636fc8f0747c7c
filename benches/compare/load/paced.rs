//! An open loop: calls are due at fixed moments whether those before are answered or not, and a call's latency
//! counts from the moment it was due. So a stall is felt by every call that it kept waiting, not by one alone.

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

use super::{Caller, Latencies, Outcome, closed::gather, latencies};

/// A call that is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    number: u64,
    at: Instant,
}

/// Says when calls are due, until so much time is over or it is stopped.
pub struct Pacer {
    due: Rc<Mutex<UnboundedReceiver<Due>>>,
    stopped: Arc<AtomicBool>,
}

impl Pacer {
    pub fn start(calls_per_second: f64, length: Duration) -> Self {
        let (tx, rx) = unbounded_channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        // A thread of its own: the runtime's clock is too coarse.
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

    /// What stops it.
    pub fn stopper(&self) -> Arc<AtomicBool> {
        self.stopped.clone()
    }
}

/// A call that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub due: Instant,
    pub latency: Duration,
}

/// Makes every call that the pacer says, by whichever caller is free. Each call's number goes into its payload, and
/// `began` is told when it is sent.
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

/// Of the calls that were due in a time.
pub fn between(samples: &[Sample], from: Instant, to: Instant) -> Latencies {
    let mut all = latencies();
    for sample in samples.iter().filter(|sample| (from..to).contains(&sample.due)) {
        all.saturating_record(sample.latency.as_nanos() as u64);
    }
    all
}
