//! Crowds: as many connections as the limit allows, and more.
//!
//! Connected clients are still served. A connection without a call in time is closed, which frees
//! its permit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{io::AsyncWriteExt, task::JoinSet};

use crate::{
    HANG, Target,
    frames::{self, hello},
    report::Tally,
};

/// Raises this process's own limit on open files: it is the other end of every connection.
pub fn raise_file_limit(connections: u64) {
    const OWN: u64 = 1000;
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections + connections / 10 + OWN;
    let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if limit.current.is_some_and(|now| now < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).unwrap();
    }
    assert!(current >= wanted, "{connections} connections need {wanted} open files, {current} are allowed");
}

/// Sends nothing, not even the preface.
pub async fn silent(target: &Target) -> Tally {
    gather(target, &[]).await
}

/// Sends the preface and the settings, and nothing after that.
pub async fn idle(target: &Target) -> Tally {
    gather(target, &hello(&[])).await
}

/// Opens a tenth more connections than the limit allows. All are closed: those beyond the limit at
/// once, the others when their time for a call is over.
async fn gather(target: &Target, words: &[u8]) -> Tally {
    const BATCH: u64 = 200;
    let count = target.connections + target.connections / 10;
    let mut waiting = JoinSet::new();
    let mut tally = Tally::default();
    let began = std::time::Instant::now();
    for number in 0..count {
        let mut stream = frames::connect(target).await;
        // The connection is closed already if there was no room.
        let _ = stream.write_all(words).await;
        waiting.spawn(async move {
            let closed = frames::is_closed_within(&mut stream, HANG).await;
            (closed, began.elapsed())
        });
        if number % BATCH == 0 {
            tokio::task::yield_now().await;
        }
    }
    let gathered = began.elapsed();
    println!("hostile: {count} connections in {:.1} s", gathered.as_secs_f64());
    let early = target.patience.mul_f64(0.9);
    while let Some(ended) = waiting.join_next().await {
        match ended.unwrap() {
            (true, after) => tally.note(if after < early { "closed at once" } else { "closed in time" }),
            (false, _) => tally.wrong(format!("a connection without a call is open after {HANG:?}")),
        }
    }
    if gathered < early {
        let refused = tally.outcomes.get("closed at once").copied().unwrap_or_default();
        if refused < target.connections / 10 {
            tally.wrong(format!("only {refused} of {count} connections found no room"));
        }
    }
    tally
}
