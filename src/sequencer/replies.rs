//! Sends the answers of a group.
//!
//! A wake-up from outside the runtime takes a lock of the scheduler, and often wakes a second worker
//! thread that finds nothing to do. So the answers of a group are handed to one task. It is woken
//! through a pipe, and wakes the calls from inside the runtime.

use std::{
    fs::File,
    io::{self, Write},
    mem::take,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{net::unix::pipe, runtime::Handle};
use tracing::warn;

use super::{Reply, RestoreError, StoredAppend, StoredSnapshot, under_way::UnderWay};
use crate::{error::StoreError, log::Tip};

/// A decided answer and its caller. A caller that is gone needs no answer.
pub(super) enum Delivery {
    Append(Reply<StoredAppend>, Result<StoredAppend, StoreError>, UnderWay),
    Snapshot(Reply<StoredSnapshot>, Result<StoredSnapshot, StoreError>),
    Restore(Reply<Tip, RestoreError>, Result<Tip, RestoreError>),
    RestoreSnapshot(Reply<(), RestoreError>, Result<(), RestoreError>),
}

impl Delivery {
    fn send(self) {
        match self {
            Self::Append(reply, result, under_way) => {
                _ = reply.send(result);
                drop(under_way);
            }
            Self::Snapshot(reply, result) => _ = reply.send(result),
            Self::Restore(reply, result) => _ = reply.send(result),
            Self::RestoreSnapshot(reply, result) => _ = reply.send(result),
        }
    }
}

/// The sequencer's end of the queue of decided answers. Dropping it ends the task.
pub(super) struct Replies {
    /// `None` if there is no task: the answers are sent by the sequencer itself.
    task: Option<TaskEnd>,
}

struct TaskEnd {
    queue: Arc<Queue>,
    /// One byte is written when answers are added to an empty queue.
    pipe: File,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    deliveries: Vec<Delivery>,
    /// Set when the task has ended.
    closed: bool,
}

impl Replies {
    /// Starts the task, if this is called in a runtime.
    pub fn start() -> Self {
        let task = Handle::try_current().ok().and_then(|runtime| {
            let started = Self::start_task(&runtime);
            started.inspect_err(|error| warn!(%error, "the sequencer wakes each caller by itself")).ok()
        });
        Self { task }
    }

    fn start_task(runtime: &Handle) -> io::Result<TaskEnd> {
        let (sender, receiver) = pipe::pipe()?;
        let pipe = File::from(sender.into_nonblocking_fd()?);
        let queue = Arc::new(Queue::default());
        let reader = Reader(queue.clone());
        runtime.spawn(async move {
            let mut bytes = [0; 16];
            while receiver.readable().await.is_ok() {
                match receiver.try_read(&mut bytes) {
                    Ok(0) => return,
                    Ok(_) => reader.send_all(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
        Ok(TaskEnd { queue, pipe })
    }

    /// Sends these answers.
    pub fn send(&self, deliveries: impl Iterator<Item = Delivery>) {
        let Some(TaskEnd { queue, pipe }) = &self.task else { return deliveries.for_each(Delivery::send) };
        let mut state = queue.state();
        if state.closed {
            drop(state);
            return deliveries.for_each(Delivery::send);
        }
        let was_empty = state.deliveries.is_empty();
        state.deliveries.extend(deliveries);
        let must_wake = was_empty && !state.deliveries.is_empty();
        drop(state);
        if must_wake && (&*pipe).write_all(&[0]).is_err() {
            // The task has ended.
            queue.send_all();
        }
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the answers that are waiting.
    fn send_all(&self) {
        let deliveries = take(&mut self.state().deliveries);
        deliveries.into_iter().for_each(Delivery::send);
    }
}

/// The task's end of the queue.
struct Reader(Arc<Queue>);

impl Reader {
    fn send_all(&self) {
        self.0.send_all();
    }
}

impl Drop for Reader {
    /// The runtime may end before the sequencer does.
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.send_all();
    }
}
