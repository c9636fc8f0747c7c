//! When the machine, or this test, did not get to do what was due: nobody's wait proves anything then.

use std::{
    fs,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::{
    history::At,
    world::{Clock, World},
};

mod processors;

const EVERY: Duration = Duration::from_millis(20);
/// Later than this is a stall.
const LATE: Duration = Duration::from_millis(100);
/// So often it is looked who had the processors: long enough for what the system counts in.
const PROCESSORS_EVERY: Duration = Duration::from_millis(200);
/// What is written each time.
const BYTES: usize = 4096;

/// A task beside the callers and the proxy, and a thread that writes a little to the disk of the service. Each sleeps
/// again and again, and notes when it is done too late. A third notes when other programs had the processors.
pub struct Stalls {
    ending: Arc<AtomicBool>,
    task: JoinHandle<Vec<(At, At)>>,
    threads: [thread::JoinHandle<Vec<(At, At)>>; 2],
}

impl Stalls {
    pub fn note(world: &World) -> Self {
        let (clock, ending) = (world.clock(), Arc::new(AtomicBool::new(false)));
        let ended = ending.clone();
        let task = tokio::spawn(async move {
            let mut stalls = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let due = clock.now() + EVERY;
                tokio::time::sleep(EVERY).await;
                note_late(clock, due, &mut stalls);
            }
            stalls
        });
        let file = fs::File::create(world.folder().join("stalls")).unwrap();
        let ended = ending.clone();
        let disk = thread::spawn(move || {
            let mut stalls = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let due = clock.now() + EVERY;
                thread::sleep(EVERY);
                file.write_all_at(&[7; BYTES], 0).unwrap();
                // As the service does before each answer: a disk that is busy with others' writes makes it wait.
                file.sync_data().unwrap();
                note_late(clock, due, &mut stalls);
            }
            stalls
        });
        let ended = ending.clone();
        let processors = thread::spawn(move || {
            let mut stalls = Vec::new();
            let (mut since, mut before) = (clock.now(), processors::ticks_of_others());
            while !ended.load(Ordering::SeqCst) {
                thread::sleep(PROCESSORS_EVERY);
                let (now, ticks) = (clock.now(), processors::ticks_of_others());
                if processors::were_taken(ticks.saturating_sub(before), now - since) {
                    stalls.push((since, now));
                }
                (since, before) = (now, ticks);
            }
            stalls
        });
        Self { ending, task, threads: [disk, processors] }
    }

    pub async fn end(self) -> Vec<(At, At)> {
        self.ending.store(true, Ordering::SeqCst);
        let mut stalls = self.task.await.unwrap();
        stalls.extend(self.threads.into_iter().flat_map(|thread| thread.join().unwrap()));
        stalls
    }
}

fn note_late(clock: Clock, due: At, stalls: &mut Vec<(At, At)>) {
    let done = clock.now();
    if done > due + LATE {
        stalls.push((due, done));
    }
}
