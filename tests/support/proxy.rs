//! A proxy between the service and ImmuDB that loses, keeps or breaks what passes.

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

/// What happens to the bytes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Requests reach ImmuDB, its answers reach nobody.
    DropAnswers,
    /// The same from the first request on that is larger.
    #[allow(dead_code, reason = "not every test program has requests like this")]
    DropAnswersAbove(usize),
    /// Requests wait in the proxy, even after their caller has gone, until the mode changes.
    KeepRequests,
    /// As before; and answers to earlier ones reach nobody.
    #[allow(dead_code, reason = "not every test program has requests like this")]
    KeepRequestsAndDropAnswers,
    /// As before; and new connections are closed at once.
    KeepRequestsAndRefuse,
    /// What waited goes on; new connections are closed at once.
    PassAndRefuse,
    /// Of what waited on a connection, the first request is cancelled, and the rest goes on.
    PassWithoutFirst,
    /// Requests are held up for a while.
    Slow,
    /// Each answer arrives so much later, and none holds the next one up.
    #[allow(dead_code, reason = "not every test program has a slow ImmuDB")]
    LateAnswers(Duration),
    /// A connection breaks in the middle of a request that is larger.
    #[allow(dead_code, reason = "not every test program has a proxy like this")]
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
    /// The connections that are there, and those that come.
    connections: Mutex<Connections>,
    kept: AtomicUsize,
}

/// What a number of connections has in common.
#[derive(Clone)]
struct Connections {
    mode: watch::Sender<Mode>,
    cut: CancellationToken,
    /// Connections whose requests are not through yet.
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

/// Connections that have been cut off on the service's side, and whose requests are still kept.
pub struct Late(Connections);

impl Late {
    pub fn deliver(&self) {
        self.0.mode.send_replace(Mode::Pass);
    }

    /// But for the first request of each connection, which is cancelled.
    pub fn deliver_without_first(&self) {
        self.0.mode.send_replace(Mode::PassWithoutFirst);
    }

    /// So many requests were answered so far.
    pub fn answered(&self) -> usize {
        self.0.answered.load(Ordering::SeqCst)
    }

    /// ImmuDB has got and answered everything.
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

    /// Breaks all connections with the service. What ImmuDB was sent, or will be, is not undone.
    pub fn cut(&self) {
        let mut connections = self.shared.connections.lock().unwrap();
        std::mem::replace(&mut connections.cut, CancellationToken::new()).cancel();
    }

    /// Breaks all connections with the service; those that come pass, and what these kept stays kept.
    pub fn cut_and_keep(&self) -> Late {
        self.cut_and_keep_then(Mode::Pass)
    }

    /// The same, with this mode for those that come.
    pub fn cut_and_keep_then(&self, mode: Mode) -> Late {
        let mut connections = self.shared.connections.lock().unwrap();
        let late = std::mem::replace(&mut *connections, Connections::new(mode));
        late.cut.cancel();
        Late(late)
    }

    /// Whole requests that were kept so far.
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
        // Where the first frame begins in it.
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
        // ImmuDB gives up what a closed connection asked for: like a network that just went silent, this
        // one stays open until it has answered.
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
            // ImmuDB may go on with what it was sent, and says so to nobody.
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
