//! The times in which the machine, or this test, did not run what was due.
//!
//! No wait of a client proves anything in such a time.

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
/// A delay above this is a stall.
const LATE: Duration = Duration::from_millis(100);
/// How often the use of the processors is sampled: seldom enough for the resolution of the system's
/// counters.
const PROCESSORS_EVERY: Duration = Duration::from_millis(200);
/// The number of bytes of each write.
const BYTES: usize = 4096;

/// A task next to the clients and the proxy, and a thread that writes a little to the disk of the
/// service. Each sleeps again and again, and records when it is done too late. A third one records
/// when other programs had the processors.
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
                // As the service does before each answer: it has to wait while the disk is busy
                // with other writes.
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
