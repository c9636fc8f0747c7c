//! Reading the whole index once, to see that no entry is missing and none is other than it was written.
//!
//! It takes a second for some million events. So it is waited for only so long, and goes on beside the service,
//! on what the index held at the start.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use fjall::{Keyspace, Readable, Snapshot};
use tokio::sync::oneshot;

use super::{
    IndexError,
    digest::{Digest, Part},
    id_filter::IdFilter,
};

/// What is to be read, as of one moment.
pub struct Examination {
    pub(super) snapshot: Snapshot,
    pub(super) parts: Vec<(Part, Keyspace)>,
    /// Of its entries the last value is known already; but what can't be read would stop the database later.
    pub(super) meta: Keyspace,
    /// Is filled on the way.
    pub(super) ids: Arc<IdFilter>,
    pub(super) expected: Digest,
}

/// How it came out, if that is known yet.
#[derive(Debug)]
pub enum Examined {
    Done(Result<(), IndexError>),
    /// It goes on.
    Later(oneshot::Receiver<Result<(), IndexError>>),
}

impl Examination {
    /// # Errors
    /// The index is unusable, or an entry is.
    pub fn run(self) -> Result<(), IndexError> {
        let seen = |part, key: &[u8]| {
            if let (Part::EventIds, Ok(id)) = (part, key.try_into()) {
                self.ids.insert(id);
            }
        };
        let seen = &seen;
        let found = thread::scope(|scope| {
            let meta =
                scope.spawn(|| self.snapshot.iter(&self.meta).try_for_each(|entry| entry.key().map(drop)));
            let read =
                |(part, keyspace)| Digest::of(part, keyspace, &self.snapshot, move |key| seen(part, key));
            let reading: Vec<_> = self
                .parts
                .iter()
                .map(|(part, keyspace)| scope.spawn(move || read((*part, keyspace))))
                .collect();
            meta.join().map_err(|_| IndexError::Panicked)??;
            reading.into_iter().try_fold(Digest::default(), |sum, part| {
                Ok::<_, IndexError>(sum.join(part.join().unwrap_or(Err(IndexError::Panicked))?))
            })
        })?;
        match found == self.expected {
            true => {
                self.ids.complete();
                Ok(())
            }
            false => Err(IndexError::Lacking),
        }
    }

    /// Runs it on a thread of its own, and waits so long.
    pub fn run_within(self, time: Duration) -> Examined {
        // Without room in it: what nobody takes any more goes the other way.
        let (now, in_time) = mpsc::sync_channel(0);
        let (later, late) = oneshot::channel();
        let running = thread::Builder::new().name("index-check".into()).spawn(move || {
            if let Err(mpsc::SendError(result)) = now.send(self.run()) {
                _ = later.send(result);
            }
        });
        if let Err(source) = running {
            return Examined::Done(Err(IndexError::Io { path: "a thread".into(), source }));
        }
        match in_time.recv_timeout(time) {
            Ok(result) => Examined::Done(result),
            Err(RecvTimeoutError::Timeout) => Examined::Later(late),
            Err(RecvTimeoutError::Disconnected) => Examined::Done(Err(IndexError::Panicked)),
        }
    }
}
