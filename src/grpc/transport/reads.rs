//! Runs reads that may block on the disk.
//!
//! The number of reads in progress, of any kind, is limited. Each holds a permit until it ends,
//! even if its client is gone. So a client that calls and hangs up again and again gets no more
//! work done than one that waits.

use std::{sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::{AcquireError, Mutex, OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{
    byte_budget::{ByteBudget, CallBytes, Purpose},
    concurrency::Admitted,
    read_limits::{READS_MAX, READS_PER_CALLER_MAX, READS_SPARED},
};
use crate::grpc::status;

/// The memory of a read in addition to the events that it returns: data read ahead, and gaps
/// between records.
const READ_AHEAD_BYTES: usize = 768 * 1024;

/// How long a read waits for bytes.
const BYTES_WAIT_MAX: Duration = Duration::from_secs(2);

type Permit = Result<OwnedSemaphorePermit, AcquireError>;

/// The permits of a read in progress.
struct ReadPermits {
    /// Permits of its client: for a list, if it is one, and for a read.
    _own: (Option<Permit>, Option<Permit>),
    /// Permits shared by all clients, in the same way.
    _of_all: (Option<Permit>, Permit),
}

/// Runs reads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reads {
    places: Arc<Semaphore>,
    /// The permits that lists need in addition. `None` if this runs other reads.
    lists: Option<Arc<Semaphore>>,
    /// Held by the first read that waits for bytes, so that reads get them in the order of their
    /// arrival.
    first: Arc<Mutex<()>>,
    budget: ByteBudget,
    /// The maximum memory of one read.
    read_bytes: usize,
    /// How many of a client's own permits a read takes.
    weight: u32,
}

impl Reads {
    /// `record_bytes_max` is the size of the largest event or snapshot.
    pub fn new(record_bytes_max: usize, budget: ByteBudget) -> Self {
        // The largest event or snapshot is in the read buffer and in the response.
        let read_bytes = 2 * record_bytes_max + READ_AHEAD_BYTES;
        // Reads in progress leave half of the bytes that responses may use.
        let fitting = usize::try_from(budget.answers_max()).unwrap_or(usize::MAX) / 2 / read_bytes;
        let places = fitting.clamp(2, READS_MAX);
        let weight = (READS_PER_CALLER_MAX / (places / 2)) as u32;
        let (places, first) = (Arc::new(Semaphore::new(places)), Arc::default());
        Self { places, lists: None, first, budget, read_bytes, weight }
    }

    /// Returns an instance for reads that may wait for the file of the read models. They get half
    /// of the shared permits and half of each client's own. The other half is left for other reads.
    pub fn lists(&self) -> Self {
        let places = (self.places.available_permits() / 2).max(1);
        Self { lists: Some(Arc::new(Semaphore::new(places))), first: Arc::default(), ..self.clone() }
    }

    /// Acquires the permits and the bytes for a read of the call.
    async fn acquire(&self, bytes: usize, call: &Admitted) -> Result<ReadPermits, Status> {
        // The client's own permits come first, so that no client fills the shared queue, or holds
        // shared permits while it queues for its own.
        let own_list = self.own_list_permit(call).await;
        let own = self.own(call, call.client.reads(), self.weight, &self.places).await;
        let (list, read) = self.shared_permits_and_bytes(bytes, call).await?;
        Ok(ReadPermits { _own: (own_list, own), _of_all: (list, read) })
    }

    /// Acquires some of a client's own permits. An identity may have many connections, so it is
    /// held to them only while few of the shared ones are free, or while reads wait for bytes.
    async fn own(
        &self,
        call: &Admitted,
        own: &Arc<Semaphore>,
        weight: u32,
        all: &Semaphore,
    ) -> Option<Permit> {
        let is_calm = || all.available_permits() > READS_SPARED && self.first.try_lock().is_ok();
        if call.client.is_identity() && is_calm() {
            return own.clone().try_acquire_many_owned(weight).ok().map(Ok);
        }
        Some(own.clone().acquire_many_owned(weight).await)
    }

    /// Acquires the client's own permit for a list.
    async fn own_list_permit(&self, call: &Admitted) -> Option<Permit> {
        let lists = self.lists.as_ref()?;
        let weight = self.weight.saturating_mul(2).min(READS_PER_CALLER_MAX as u32);
        self.own(call, call.client.lists(), weight, lists).await
    }

    /// Acquires the shared permits: for a list, if this runs lists, and for a read.
    async fn shared_permits(&self) -> (Option<Permit>, Permit) {
        let list = match self.lists.clone() {
            Some(lists) => Some(lists.acquire_owned().await),
            None => None,
        };
        (list, self.places.clone().acquire_owned().await)
    }

    async fn shared_permits_and_bytes(
        &self,
        bytes: usize,
        call: &Admitted,
    ) -> Result<(Option<Permit>, Permit), Status> {
        const PAUSE: Duration = Duration::from_millis(10);
        let until = Instant::now() + BYTES_WAIT_MAX;
        loop {
            // A read that needs few bytes passes those that wait for many.
            let first = if bytes < self.read_bytes { None } else { Some(self.first.lock().await) };
            let full = loop {
                let places = self.shared_permits().await;
                let full = match call.answer.try_resize(bytes) {
                    Ok(()) => return Ok(places),
                    Err(full) => full,
                };
                // A client may be about to read a waiting response. Meanwhile, the permits are left
                // to other reads.
                drop(places);
                if full.share.is_some() || Instant::now() >= until {
                    break full;
                }
                tokio::time::sleep(PAUSE).await;
            };
            // A client that has used up its share waits for itself, and must not hold up others.
            drop(first);
            if Instant::now() >= until {
                return Err(status::of_limit(full));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Runs a read on a thread where blocking on the disk holds up nothing else. The bytes of the
    /// read are acquired before it begins, and stay acquired for the response.
    ///
    /// # Errors
    /// Returns an error if there are no bytes for the read, even after a while.
    pub async fn run<T: Send + 'static>(
        &self,
        call: &Admitted,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.run_with(self.read_bytes, call, read).await
    }

    /// Like [`Reads::run`], for work that reads no events and needs at most `bytes` of memory.
    ///
    /// # Errors
    /// See [`Reads::run`].
    pub async fn run_with<T: Send + 'static>(
        &self,
        bytes: usize,
        call: &Admitted,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reads, acquiring) = (self.clone(), call.clone());
        let mut acquired = Box::pin(async move { reads.acquire(bytes, &acquiring).await });
        let aborted = |error| status::of_task(&error, "a read");
        match futures_util::poll!(&mut acquired) {
            Poll::Ready(places) => begin(places?, call.clone(), read).await.map_err(aborted),
            // In a task of its own: a stream is polled only while its client takes what is sent.
            // Unpolled, it would keep its turn, and then its permits, from all others.
            Poll::Pending => {
                let call = call.clone();
                let done = tokio::spawn(async move {
                    let places = acquired.await?;
                    begin(places, call, read).await.map_err(aborted)
                });
                AbortOnDropHandle::new(done).await.map_err(aborted)?
            }
        }
    }

    /// Like [`Reads::run`], for the read that opens a stream. There is no response yet, so no bytes
    /// stay acquired.
    ///
    /// # Errors
    /// See [`Reads::run`]. Also returns an error if the deadline expires.
    pub async fn open<T: Send + 'static>(
        &self,
        call: &Admitted,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let opened = call.in_time(self.run(call, read)).await;
        call.answer.resize(0)?;
        opened
    }

    /// Like [`Reads::run`], with a reader that is used again for the next message of a stream.
    ///
    /// # Errors
    /// See [`Reads::run`].
    pub async fn next<R: Send + 'static, T: Send + 'static>(
        &self,
        call: &Admitted,
        mut reader: R,
        read: impl FnOnce(&mut R) -> T + Send + 'static,
    ) -> Result<(R, T), Status> {
        previous_sent().await;
        let read = move || {
            let read = read(&mut reader);
            (reader, read)
        };
        self.run(call, read).await
    }

    /// Returns the bytes, initially none, for what a reader keeps in memory between its reads.
    pub fn kept_bytes(&self, call: &Admitted) -> CallBytes {
        self.budget.of_call(call.client.caller(), Purpose::Answer)
    }
}

/// Lets the previous message be sent: no read begins while the client has not taken it.
pub async fn previous_sent() {
    tokio::task::yield_now().await;
}

/// Starts the read itself, which keeps its permits until it ends.
fn begin<T: Send + 'static>(
    places: ReadPermits,
    call: Admitted,
    read: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        let _held = (places, call);
        read()
    })
}

/// Acquires the bytes of a response message, both as a value in memory and in encoded form.
///
/// # Errors
/// Returns an error if the bytes are not available.
pub fn size_answer(call: &Admitted, message: &impl prost::Message) -> Result<(), Status> {
    const OVERHEAD: usize = 1024;
    call.answer.resize(message.encoded_len().saturating_mul(2).saturating_add(OVERHEAD))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tonic::Request;

    use super::*;
    use crate::{
        config::LimitsConfig,
        error::Limit,
        grpc::transport::concurrency::Gate,
        shared_limit::{Caller, Resource, SharedLimit},
    };

    fn record_bytes_max() -> usize {
        LimitsConfig::default().largest_record()
    }

    fn call(streams: &Arc<SharedLimit>) -> Admitted {
        Admitted::of(&Request::new(())).streaming(streams).unwrap()
    }

    /// Returns an instance that runs out of bytes but not of permits.
    fn reads_of(budget: &ByteBudget) -> Reads {
        let reads = Reads::new(record_bytes_max(), ByteBudget::new(usize::MAX));
        Reads { budget: budget.clone(), ..reads }
    }

    fn call_of(budget: &ByteBudget, caller: &Caller) -> Admitted {
        let mut call = Admitted::of(&Request::new(()));
        call.answer = budget.of_call(caller, Purpose::Answer);
        call
    }

    #[tokio::test]
    async fn a_read_keeps_its_places_and_bytes_after_its_caller_has_gone() {
        let streams = Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, 100));
        let budget = ByteBudget::new(384 << 20);
        let reads = Reads::new(record_bytes_max(), budget.clone());
        let mut gate = Gate::new(10, budget.clone());
        let request = tonic::service::Interceptor::call(&mut gate, Request::new(())).unwrap();
        let admitted = Admitted::of(&request).streaming(&streams).unwrap();
        drop(request);
        let (begun, wait_for_begin) = tokio::sync::oneshot::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let (reads_too, call_too) = (reads.clone(), admitted.clone());
        let caller = tokio::spawn(async move {
            let read = move || {
                begun.send(()).unwrap();
                wait.recv()
            };
            reads_too.run(&call_too, read).await
        });
        drop(admitted);
        wait_for_begin.await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!((streams.used(), reads.places.available_permits()), (1, READS_MAX - 1));
        assert_eq!(budget.used(), reads.read_bytes as u64);
        drop(go_on);
        let _all = reads.places.acquire_many(READS_MAX as u32).await.unwrap();
        // The permits are released along with the rest, in no fixed order.
        while streams.used() > 0 || budget.used() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_waits_for_bytes_and_gets_them_is_no_refusal() {
        // Other tests cause rejections, too, and only the message of the last one is recorded.
        let was_refused = || crate::refusals::recorded().iter().any(|one| one.message.contains("of 9876543"));
        let budget = ByteBudget::new(9_876_543);
        let reads = reads_of(&budget);
        let of_call = |budget: &ByteBudget| budget.of_call(&Caller::default(), Purpose::Answer);
        let (full, mut waiting) = (of_call(&budget), Admitted::of(&Request::new(())));
        full.resize(3_000_000).unwrap();
        waiting.answer = of_call(&budget);
        let read = reads.run(&waiting, || ());
        let mut read = std::pin::pin!(read);
        assert!(futures_util::poll!(&mut read).is_pending());
        assert!(!was_refused());
        drop(full);
        read.await.unwrap();
        let full = of_call(&budget);
        waiting.answer.resize(0).unwrap();
        full.resize(3_000_000).unwrap();
        let refused = reads.run(&waiting, || ()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_to_the_read_that_waited_longest() {
        let budget = ByteBudget::new(9_876_545);
        let reads = reads_of(&budget);
        let full = budget.of_call(&Caller::default(), Purpose::Answer);
        full.resize(3_000_000).unwrap();
        let (first, second) = (call_of(&budget, &Caller::default()), call_of(&budget, &Caller::default()));
        let mut waits = Box::pin(reads.run(&first, || ()));
        assert!(futures_util::poll!(&mut waits).is_pending());
        tokio::time::advance(Duration::from_millis(1)).await;
        // Enough for one of them.
        drop(full);
        let mut comes_later = Box::pin(reads.run(&second, || ()));
        assert!(futures_util::poll!(&mut comes_later).is_pending(), "it passed one that came before");
        waits.await.unwrap();
        assert!(futures_util::poll!(&mut comes_later).is_pending(), "there were bytes for both");
        drop(first);
        comes_later.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_asked_to_go_on_keeps_its_turn_from_nobody() {
        let budget = ByteBudget::new(32_000_000);
        let reads = reads_of(&budget);
        let full = [(); 2].map(|()| budget.of_call(&Caller::default(), Purpose::Answer));
        full.iter().for_each(|full| full.resize(6_500_000).unwrap());
        let (first, second) = (call_of(&budget, &Caller::default()), call_of(&budget, &Caller::default()));
        let mut waits = Box::pin(reads.run(&first, || ()));
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(full);
        let other = tokio::time::timeout(Duration::from_secs(60), reads.run(&second, || ())).await;
        other.expect("it waited for one that nobody asks to go on").unwrap();
        let free = async {
            while reads.places.available_permits() < READS_MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let free = tokio::time::timeout(Duration::from_secs(60), free).await;
        free.expect("it keeps its places for one that nobody asks to go on");
        drop(waits);
        drop(first);
        while budget.used() > reads.read_bytes as u64 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_has_its_share_holds_no_read_up() {
        let (budget, greedy) = (ByteBudget::new(100 << 20), Caller::default());
        let reads = reads_of(&budget);
        let held = budget.of_call(&greedy, Purpose::Answer);
        held.resize(budget.answers_max() as usize / 100 * 79).unwrap();
        let waiting = call_of(&budget, &greedy);
        let mut waits = Box::pin(reads.run(&waiting, || ()));
        assert!(futures_util::poll!(&mut waits).is_pending());
        let other = call_of(&budget, &Caller::default());
        let at_once = tokio::time::timeout(BYTES_WAIT_MAX / 2, reads.run(&other, || ())).await;
        at_once.expect("it waited for the end of the other's wait").unwrap();
        assert!(waits.await.unwrap_err().message().contains("share"));
    }

    #[tokio::test]
    async fn lists_that_wait_leave_half_of_the_reads_of_all_and_of_their_caller() {
        let streams = Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, 1000));
        let reads = Reads::new(record_bytes_max(), ByteBudget::new(usize::MAX));
        let (lists, mut ends, mut begun) = (reads.lists(), Vec::new(), tokio::task::JoinSet::new());
        let callers: Vec<_> = (0..4).map(|_| call(&streams)).collect();
        for caller in &callers {
            for _ in 0..READS_MAX {
                let (lists, caller) = (lists.clone(), caller.clone());
                let (end, wait) = mpsc::channel::<()>();
                ends.push(end);
                begun.spawn(async move { lists.run(&caller, move || _ = wait.recv()).await });
            }
        }
        while reads.places.available_permits() > READS_MAX / 2 {
            tokio::task::yield_now().await;
        }
        for caller in &callers {
            reads.run(caller, || ()).await.unwrap();
        }
        assert_eq!(reads.places.available_permits(), READS_MAX / 2);
        drop(ends);
        while let Some(list) = begun.join_next().await {
            list.unwrap().unwrap();
        }
        assert_eq!(reads.places.available_permits(), READS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_queue_behind_their_callers_reads_hold_no_place_of_all() {
        let streams = Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, 1000));
        let reads = Reads::new(record_bytes_max(), ByteBudget::new(usize::MAX));
        let (lists, callers) = (reads.lists(), [call(&streams), call(&streams)]);
        let mut queued = Vec::new();
        for caller in &callers {
            let own =
                caller.client.reads().clone().try_acquire_many_owned(READS_PER_CALLER_MAX as u32).unwrap();
            for _ in 0..READS_PER_CALLER_MAX {
                let mut list = Box::pin(lists.run(caller, || ()));
                assert!(futures_util::poll!(&mut list).is_pending());
                queued.push(list);
            }
            std::mem::forget(own);
        }
        let other = call(&streams);
        tokio::time::timeout(Duration::from_secs(60), lists.run(&other, || ())).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_waits_for_bytes_holds_no_place_of_all() {
        let budget = ByteBudget::new(9_876_544);
        let reads = reads_of(&budget);
        let lists = reads.lists();
        let places = lists.lists.clone().unwrap();
        let full = budget.of_call(&Caller::default(), Purpose::Answer);
        full.resize(3_000_000).unwrap();
        let mut waiting = Admitted::of(&Request::new(()));
        waiting.answer = budget.of_call(&Caller::default(), Purpose::Answer);
        let mut list = Box::pin(lists.run(&waiting, || ()));
        assert!(futures_util::poll!(&mut list).is_pending());
        assert_eq!(
            (places.available_permits(), reads.places.available_permits()),
            (READS_MAX / 2, READS_MAX)
        );
        drop(full);
        list.await.unwrap();
    }

    #[tokio::test]
    async fn one_connection_does_not_have_all_reads() {
        let streams = Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, 1000));
        let reads = Reads::new(record_bytes_max(), ByteBudget::new(usize::MAX));
        let (greedy, mut ends) = (call(&streams), Vec::new());
        let mut begun = tokio::task::JoinSet::new();
        for _ in 0..3 * READS_MAX {
            let (reads, greedy) = (reads.clone(), greedy.clone());
            let (end, wait) = mpsc::channel::<()>();
            ends.push(end);
            begun.spawn(async move { reads.run(&greedy, move || _ = wait.recv()).await });
        }
        while reads.places.available_permits() > READS_MAX - READS_PER_CALLER_MAX {
            tokio::task::yield_now().await;
        }
        reads.run(&call(&streams), || ()).await.unwrap();
        assert_eq!(reads.places.available_permits(), READS_MAX - READS_PER_CALLER_MAX);
        drop(ends);
        while let Some(read) = begun.join_next().await {
            read.unwrap().unwrap();
        }
    }
}
