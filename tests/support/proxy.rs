//! A proxy between the service and ImmuDB that drops, holds back, delays or breaks traffic.
//!
//! It counts complete requests and answers, but never looks at what they contain.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

mod open_requests;

use open_requests::{Frames, OpenRequests};

/// What happens to the bytes on the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Requests reach ImmuDB; its answers are dropped.
    DropAnswers,
    /// Passes until the first request larger than this many bytes, then acts like `DropAnswers`.
    DropAnswersAbove(usize),
    /// The proxy holds requests back until the mode changes, even after their client has gone.
    KeepRequests,
    /// Like `KeepRequests`, and answers to earlier requests are dropped.
    KeepRequestsAndDropAnswers,
    /// Like `KeepRequests`, and new connections are closed at once.
    KeepRequestsAndRefuse,
    /// Requests that were held back go on; new connections are closed at once.
    PassAndRefuse,
    /// Of the requests held back on a connection, the first is cancelled and the rest go on.
    PassWithoutFirst,
    /// Requests are delayed by a fixed time.
    Slow,
    /// Each answer is delayed by this time, and none holds up the next one.
    LateAnswers(Duration),
    /// A connection breaks in the middle of a request larger than this many bytes.
    CutAbove(usize),
}

const SLOW_BY: Duration = Duration::from_millis(100);

impl Mode {
    fn keeps(self) -> bool {
        matches!(self, Self::KeepRequests | Self::KeepRequestsAndDropAnswers | Self::KeepRequestsAndRefuse)
    }

    fn drops_answers(self) -> bool {
        matches!(self, Self::DropAnswers | Self::KeepRequestsAndDropAnswers)
    }

    fn refuses(self) -> bool {
        matches!(self, Self::PassAndRefuse | Self::KeepRequestsAndRefuse)
    }
}

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    /// The current set of connections, which new connections join.
    connections: Mutex<Connections>,
    kept: AtomicUsize,
}

/// The state shared by a set of connections.
#[derive(Clone)]
struct Connections {
    mode: watch::Sender<Mode>,
    cut: CancellationToken,
    /// Connections with requests that ImmuDB has not received and answered yet.
    open: Arc<AtomicUsize>,
    /// Requests that ImmuDB has answered.
    answered: Arc<AtomicUsize>,
}

impl Connections {
    fn new(mode: Mode) -> Self {
        Self {
            mode: watch::Sender::new(mode),
            cut: CancellationToken::new(),
            open: Arc::default(),
            answered: Arc::default(),
        }
    }
}

/// Connections that were cut off on the service's side and whose requests are still held back.
pub struct Late(Connections);

impl Late {
    pub fn deliver(&self) {
        self.0.mode.send_replace(Mode::Pass);
    }

    /// Delivers everything but the first request of each connection, which is cancelled.
    pub fn deliver_without_first(&self) {
        self.0.mode.send_replace(Mode::PassWithoutFirst);
    }

    /// Returns the number of requests answered so far.
    pub fn answered(&self) -> usize {
        self.0.answered.load(Ordering::SeqCst)
    }

    /// Returns whether ImmuDB has received and answered everything.
    pub fn is_through(&self) -> bool {
        self.0.open.load(Ordering::SeqCst) == 0
    }
}

impl Proxy {
    pub async fn start(immudb_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Mutex::new(Connections::new(Mode::Pass));
        let shared = Arc::new(Shared { connections, kept: AtomicUsize::new(0) });
        let of_proxy = shared.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let connections = of_proxy.connections.lock().unwrap().clone();
                if connections.mode.borrow().refuses() {
                    continue;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, immudb_port)).await else {
                    continue;
                };
                tokio::spawn(carry(client, server, connections, of_proxy.clone()));
            }
        });
        Self { port, shared, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        self.shared.connections.lock().unwrap().mode.send_replace(mode);
    }

    /// Breaks all connections to the service. Requests that ImmuDB has received, or will receive,
    /// are not undone.
    pub fn cut(&self) {
        let mut connections = self.shared.connections.lock().unwrap();
        std::mem::replace(&mut connections.cut, CancellationToken::new()).cancel();
    }

    /// Breaks all connections to the service. New connections pass, and requests held back on the
    /// old ones stay held back.
    pub fn cut_and_keep(&self) -> Late {
        self.cut_and_keep_then(Mode::Pass)
    }

    /// Like [`Proxy::cut_and_keep`], with `mode` for the new connections.
    pub fn cut_and_keep_then(&self, mode: Mode) -> Late {
        let mut connections = self.shared.connections.lock().unwrap();
        let late = std::mem::replace(&mut *connections, Connections::new(mode));
        late.cut.cancel();
        Late(late)
    }

    /// Returns the number of complete requests held back so far.
    pub fn kept(&self) -> usize {
        self.shared.kept.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, server: TcpStream, connections: Connections, proxy: Arc<Shared>) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let Connections { mode, cut, open, answered } = connections;
    let unanswered = OpenRequests::new();
    open.fetch_add(1, Ordering::SeqCst);
    let requests = Requests {
        mode: mode.subscribe(),
        modes: mode.clone(),
        cut: cut.clone(),
        unanswered: unanswered.clone(),
    };
    let answers = Answers { mode: mode.subscribe(), cut, unanswered, answered };
    tokio::join!(requests.carry(from_client, to_server, &proxy.kept), answers.carry(from_server, to_client));
    open.fetch_sub(1, Ordering::SeqCst);
}

struct Requests {
    mode: watch::Receiver<Mode>,
    modes: watch::Sender<Mode>,
    cut: CancellationToken,
    unanswered: OpenRequests,
}

impl Requests {
    async fn carry(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, kept: &AtomicUsize) {
        let mut buffer = vec![0; 64 * 1024];
        let mut frames = Frames::of_client();
        let mut waiting = Vec::new();
        // The offset in `waiting` at which the first frame begins.
        let mut first_frame = None;
        let mut ended = false;
        let mut request_bytes = 0;
        while !ended || !waiting.is_empty() {
            let mode = *self.mode.borrow_and_update();
            if !mode.keeps() && !waiting.is_empty() {
                if mode == Mode::PassWithoutFirst
                    && let Some(first_frame) = first_frame
                {
                    self.unanswered.cancel_first(&mut waiting, first_frame);
                }
                if to.write_all(&waiting).await.is_err() {
                    break;
                }
                waiting.clear();
                continue;
            }
            let read = tokio::select! {
                read = from.read(&mut buffer), if !ended => read.unwrap_or(0),
                () = self.cut.cancelled(), if !ended => 0,
                changed = self.mode.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
            };
            if *self.mode.borrow() == Mode::Slow {
                tokio::time::sleep(SLOW_BY).await;
            }
            ended |= read == 0;
            if waiting.is_empty() {
                first_frame = frames.next_begins_at();
            }
            let asked = self.unanswered.asked(&mut frames, &buffer[..read]);
            let so_far = request_bytes + read;
            request_bytes = if asked > 0 { 0 } else { so_far };
            if let Mode::CutAbove(bytes_max) = *self.mode.borrow()
                && request_bytes > bytes_max
            {
                return;
            }
            let mode = *self.mode.borrow();
            if let Mode::DropAnswersAbove(bytes) = mode
                && so_far > bytes
            {
                self.modes.send_replace(Mode::DropAnswers);
            }
            if self.mode.borrow().keeps() {
                kept.fetch_add(asked, Ordering::SeqCst);
            }
            waiting.extend_from_slice(&buffer[..read]);
        }
        // ImmuDB abandons the requests of a closed connection. Like a network that just went
        // silent, this connection stays open until ImmuDB has answered.
        self.unanswered.none_left().await;
        let _ = to.shutdown().await;
    }
}

struct Answers {
    mode: watch::Receiver<Mode>,
    cut: CancellationToken,
    unanswered: OpenRequests,
    answered: Arc<AtomicUsize>,
}

impl Answers {
    fn note(&self, frames: &mut Frames, bytes: &[u8]) {
        self.answered.fetch_add(self.unanswered.answered(frames, bytes), Ordering::SeqCst);
    }

    async fn carry(self, mut from: OwnedReadHalf, to: OwnedWriteHalf) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let deliver = deliver(waiting, to, self.cut.clone());
        let read = async {
            let mut buffer = vec![0; 64 * 1024];
            let mut frames = Frames::of_server();
            loop {
                let read = tokio::select! {
                    read = from.read(&mut buffer) => read.unwrap_or(0),
                    () = self.cut.cancelled() => break,
                };
                self.note(&mut frames, &buffer[..read]);
                let mode = *self.mode.borrow();
                let late = if let Mode::LateAnswers(late) = mode { late } else { Duration::ZERO };
                let answer = (Instant::now() + late, buffer[..read].to_vec());
                if read == 0 || (!mode.drops_answers() && queue.send(answer).is_err()) {
                    break;
                }
            }
            drop(queue);
            // ImmuDB may go on with the requests it received; these answers are dropped.
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                self.note(&mut frames, &buffer[..read]);
            }
            self.unanswered.give_up();
        };
        tokio::join!(read, deliver);
    }
}

/// Sends everything when it is due, until there is no more or the connection is cut.
async fn deliver(
    mut waiting: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    cut: CancellationToken,
) {
    let send = async {
        while let Some((due, bytes)) = waiting.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    cut.run_until_cancelled(send).await;
    let _ = to.shutdown().await;
}
