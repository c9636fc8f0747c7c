//! The disk is full, or no more files can be opened, for a while and under load.
//!
//! Appends must recover by themselves.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::{
    support::{
        descriptors,
        events::{event, request, whole_order},
        load::{Load, assert_all_there},
    },
    world::{Control, World},
};

/// The limit after the end of the fault.
const BACK_WITHIN: Duration = Duration::from_secs(5);
const CALLERS: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Fault {
    DiskFull,
    NoMoreFiles,
}

/// Causes each fault `runs` times, for `length` each time, in one run of the service.
///
/// # Errors
/// Returns an error if appends recovered too late, or if anything was lost.
pub async fn run(seed: u64, length: Duration, runs: u64) -> Result<(), String> {
    let world = World::build(seed).await;
    let process = world.service.lock().await.process_id();
    let mut late = 0;
    for number in 1..=runs {
        for fault in [Fault::DiskFull, Fault::NoMoreFiles] {
            let back = one(&world, process, fault, length).await?;
            late += u64::from(back > BACK_WITHIN);
            println!(
                "recovery: {fault:?}, {number} of {runs}: back {:.3} s after its end",
                back.as_secs_f64()
            );
        }
    }
    world.settled().await?;
    world.end(false).await;
    println!("recovery: {} of {} times within {BACK_WITHIN:?}", runs * 2 - late, runs * 2);
    if late == 0 { Ok(()) } else { Err(format!("{late} times too late")) }
}

/// Returns how long it takes after the end of the fault until an append is acknowledged.
async fn one(world: &World, process: u32, fault: Fault, length: Duration) -> Result<Duration, String> {
    let load = Load::start(&world.client(), CALLERS, 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = match fault {
        Fault::DiskFull => {
            world.control(Control::DiskFull, 1);
            None
        }
        Fault::NoMoreFiles => {
            let free = descriptors::lowest_free(process).unwrap();
            let maximum = getrlimit(Resource::Nofile).maximum;
            Some(limit_files(process, Rlimit { current: Some(free), maximum }))
        }
    };
    tokio::time::sleep(length).await;
    match before {
        None => world.control(Control::DiskFull, 0),
        Some(before) => _ = limit_files(process, before),
    }
    let ended = Instant::now();
    let mut client = world.client();
    let back = loop {
        let Err(status) = client.append_events(request(vec![event("back")])).await else {
            break ended.elapsed();
        };
        if ended.elapsed() > BACK_WITHIN * 4 {
            let log = world.service.lock().await.log();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            let after = ended.elapsed();
            return Err(format!(
                "{fault:?}: no writes are accepted {after:?} after its end: {status:?}\n{last:#?}"
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let calls = load.end().await;
    let refused = calls.iter().filter(|call| call.answer.is_err()).count();
    println!("recovery: {fault:?}: {refused} of {} appends refused", calls.len());
    if refused == 0 {
        return Err(format!("{fault:?} refused nothing"));
    }
    let mut service = world.service.lock().await;
    if !service.is_running() || service.process_id() != process {
        return Err(format!("{fault:?}: the service ended"));
    }
    drop(service);
    assert_all_there(&calls, &whole_order(&mut client).await);
    Ok(back)
}

/// Sets the limit on open files. Returns the previous one.
fn limit_files(process: u32, limit: Rlimit) -> Rlimit {
    prlimit(Pid::from_raw(process as i32), Resource::Nofile, limit).unwrap()
}
