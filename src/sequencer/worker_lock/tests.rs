use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread::ThreadId,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    error::StoreError,
    event::{Content, ContentDigest, Position},
    sequencer::{
        Append, Origin, Sequencer,
        tests::{Running, in_folder, one_event, start_admitting},
    },
};

/// Starts a sequencer that tells on which thread it decides about each append.
fn start_telling(folder: &tempfile::TempDir) -> (Running, mpsc::Receiver<ThreadId>) {
    let (sender, threads) = mpsc::channel();
    let telling = move |_| {
        sender.send(std::thread::current().id()).unwrap();
        Ok(())
    };
    (start_admitting(&in_folder(folder), std::sync::Arc::new(telling)), threads)
}

/// An append that is too large for its caller's thread.
fn large() -> Append {
    let mut append = one_event("a");
    for (event, digest) in &mut append.events {
        event.content = Content::Binary(vec![7; 70_000].into());
        *digest = ContentDigest::of(event);
    }
    append
}

/// Appends one event until one of them was handled on this thread. A slow disk prevents that for a
/// while.
async fn append_until_here(sequencer: &Sequencer, threads: &mpsc::Receiver<ThreadId>) -> Position {
    loop {
        let stored = sequencer.append(one_event("a"), Origin::default()).await.unwrap();
        if threads.recv().unwrap() == std::thread::current().id() {
            return stored.bounds.last;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_is_alone_is_not_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (running, threads) = start_telling(&folder);
    let here = std::thread::current().id();
    running.sequencer.append(one_event("a"), Origin::default()).await.unwrap();
    assert_ne!(threads.recv().unwrap(), here, "nobody watches yet");
    let before = append_until_here(&running.sequencer, &threads).await;
    // Something that is large is handed over, and so is everything while the thread lingers.
    let stored = running.sequencer.append(large(), Origin::default()).await.unwrap();
    assert_eq!(stored.bounds.last, Position(before.0 + 1));
    assert_ne!(threads.recv().unwrap(), here);
    append_until_here(&running.sequencer, &threads).await;
    running.sequencer.lingers(true);
    running.sequencer.append(one_event("a"), Origin::default()).await.unwrap();
    assert_ne!(threads.recv().unwrap(), here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_side_by_side_are_handled_in_one_group_by_the_thread() {
    let folder = tempfile::tempdir().unwrap();
    let (running, threads) = start_telling(&folder);
    append_until_here(&running.sequencer, &threads).await;
    let appends = (0..64).map(|_| running.sequencer.append(one_event("a"), Origin::default()));
    // While another thread has the worker, all of them are queued.
    let worker_lock = running.sequencer.worker_lock.clone();
    let ((taken, is_taken), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let other = std::thread::spawn(move || {
        let _worker = worker_lock.worker.lock().unwrap();
        taken.send(()).unwrap();
        _ = released.recv();
    });
    is_taken.recv().unwrap();
    let mut appends: Vec<_> = appends.map(Box::pin).collect();
    for append in &mut appends {
        assert!(futures_util::poll!(append).is_pending());
    }
    assert_eq!(running.sequencer.worker_lock.queued.load(Ordering::Acquire), 64);
    drop(release);
    other.join().unwrap();
    for append in appends {
        append.await.unwrap();
    }
    assert_eq!(running.sequencer.worker_lock.queued.load(Ordering::Acquire), 0);
    assert!((0..64).all(|_| threads.recv().unwrap() != std::thread::current().id()));
}

/// Panics in a group on the thread of its caller, or on the sequencer thread.
async fn panicking(here: bool) {
    let folder = tempfile::tempdir().unwrap();
    let caller = std::thread::current().id();
    let panics = std::sync::Arc::new(AtomicU64::new(0));
    let seen = panics.clone();
    let admission = move |_| {
        let is_here = std::thread::current().id() == caller;
        assert!(is_here != here || seen.load(Ordering::Acquire) == 0, "as asked");
        Ok(())
    };
    let mut running = start_admitting(&in_folder(&folder), std::sync::Arc::new(admission));
    // The first one is handled by the sequencer thread, which watches from then on.
    running.sequencer.append(one_event("a"), Origin::default()).await.unwrap();
    panics.store(1, Ordering::Release);
    let sequencer = running.sequencer.clone();
    let appends = async {
        for _ in 0..1000 {
            let append = if here { one_event("a") } else { large() };
            sequencer.append(append, Origin::default()).await?;
        }
        Ok::<_, StoreError>(())
    };
    let ended = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(appends)).await;
    assert_eq!(ended.is_err(), here);
    assert!(here || ended.is_ok_and(|ended| matches!(ended, Err(StoreError::OutcomeUnknown))));
    running.sequencer.ended().await;
    let refused = running.sequencer.append(one_event("a"), Origin::default()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert!(!running.join_thread());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_panics_ends_the_sequencer_on_either_thread() {
    panicking(true).await;
    panicking(false).await;
}

#[tokio::test]
async fn the_only_worker_of_a_runtime_is_never_blocked() {
    let folder = tempfile::tempdir().unwrap();
    let (running, threads) = start_telling(&folder);
    for _ in 0..20 {
        running.sequencer.append(one_event("a"), Origin::default()).await.unwrap();
        assert_ne!(threads.recv().unwrap(), std::thread::current().id());
    }
}

/// The other worker may have to be woken up for that.
#[test]
fn the_network_is_served_while_a_disk_hangs() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (asked, hang) = mpsc::channel::<mpsc::Receiver<()>>();
    let (began, begins) = mpsc::channel();
    let hang = Mutex::new(hang);
    let hanging = move |_| {
        if let Ok(released) = hang.lock().unwrap().try_recv() {
            began.send(std::thread::current().name().map(str::to_owned)).unwrap();
            _ = released.recv();
        }
        Ok(())
    };
    let running =
        runtime.block_on(async { start_admitting(&in_folder(&folder), std::sync::Arc::new(hanging)) });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    // For each byte, one append, and an answer. As the service does, each call has its task.
    let sequencer = running.sequencer.clone();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((mut connection, _)) = listener.accept().await {
            let sequencer = sequencer.clone();
            tokio::spawn(async move {
                while let Ok(byte) = connection.read_u8().await {
                    if byte == b'a' {
                        let sequencer = sequencer.clone();
                        let append: Append = one_event("a");
                        tokio::spawn(async move { sequencer.append(append, Origin::default()).await })
                            .await
                            .unwrap()
                            .unwrap();
                    }
                    connection.write_u8(byte).await.unwrap();
                }
            });
        }
    });
    let call = |connection: &mut TcpStream, what: u8| {
        connection.write_all(&[what]).unwrap();
        connection.read_exact(&mut [0]).unwrap();
    };
    let mut connections = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    let [appending, reading] = &mut connections;
    call(reading, b'r');
    // Until an append hangs on a worker of the runtime.
    let release = loop {
        (0..5).for_each(|_| call(appending, b'a'));
        let (release, released) = mpsc::channel();
        asked.send(released).unwrap();
        appending.write_all(b"a").unwrap();
        if begins.recv().unwrap().as_deref() != Some("sequencer") {
            break release;
        }
        drop(release);
        appending.read_exact(&mut [0]).unwrap();
    };
    for _ in 0..50 {
        call(reading, b'r');
    }
    drop(release);
    appending.read_exact(&mut [0]).unwrap();
    drop(running);
}
