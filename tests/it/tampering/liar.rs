//! A proxy between the service and ImmuDB that understands the calls and lies about the answers.
//!
//! It knows no message by its type, so it can change any field of any answer.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use fastrand::Rng;
use http::uri::PathAndQuery;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};
use tonic::{
    Request, Response, Status,
    body::Body,
    client,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service},
    server::{self, NamedService, UnaryService},
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

mod fields;

const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long an answer waits for another one, to be exchanged with it.
const EXCHANGE_MAX: Duration = Duration::from_millis(200);

/// What happens to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Any field is changed, removed or repeated, or two are exchanged.
    Change,
    /// This field of the answer is changed.
    ChangeField(u64),
    /// The answer to the call before it is given again.
    Repeat,
    /// It is exchanged with the answer to another call at the same time.
    Exchange,
    /// An error takes its place.
    Fail(Moment),
    /// The call takes place, and no answer is sent.
    Withhold,
}

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It never reaches ImmuDB.
    Before,
    After,
}

/// Lies about the next calls of a method.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub method: &'static str,
    pub lie: Lie,
    pub times: u32,
}

pub struct Liar {
    port: u16,
    answers: Arc<Answers>,
    serving: JoinHandle<()>,
}

impl Liar {
    pub async fn start(immudb_port: u16, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let immudb = Endpoint::from_shared(format!("http://127.0.0.1:{immudb_port}")).unwrap();
        let answers = Arc::new(Answers {
            immudb: immudb.connect_lazy(),
            plans: Mutex::default(),
            rng: Mutex::new(Rng::with_seed(seed)),
            before: Mutex::default(),
            waiting: Mutex::default(),
        });
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = Server::builder().add_service(ImmuService(answers.clone()));
        let serving = tokio::spawn(async move { serving.serve_with_incoming(incoming).await.unwrap() });
        Self { port, answers, serving }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Replaces all plans. Without plans, every answer is as ImmuDB gave it.
    pub fn plan(&self, plans: &[Plan]) {
        let untold = plans.iter().map(|plan| (*plan, 0)).collect();
        *self.answers.plans.lock().unwrap() = untold;
    }

    /// Returns whether each plan has been followed at least once.
    pub fn has_lied(&self) -> bool {
        self.answers.plans.lock().unwrap().iter().all(|(_, told)| *told > 0)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Answers {
    immudb: Channel,
    /// The plans, and how often each was followed.
    plans: Mutex<Vec<(Plan, u32)>>,
    rng: Mutex<Rng>,
    /// The last true answer to each method.
    before: Mutex<BTreeMap<String, Bytes>>,
    waiting: Mutex<Option<(Bytes, oneshot::Sender<Bytes>)>>,
}

impl Answers {
    /// Returns the lie about the next answer to this method, and the dice for it.
    fn next_lie(&self, method: &str) -> Option<(Lie, Rng)> {
        let mut plans = self.plans.lock().unwrap();
        let is_next = |(plan, told): &&mut (Plan, u32)| plan.method == method && *told < plan.times;
        let (plan, told) = plans.iter_mut().find(is_next)?;
        *told += 1;
        Some((plan.lie, self.rng.lock().unwrap().fork()))
    }

    async fn answer(&self, path: PathAndQuery, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let method = path.path().rsplit('/').next().unwrap_or_default().to_owned();
        let lie = self.next_lie(&method);
        if let Some((Lie::Fail(Moment::Before), rng)) = lie {
            return Err(error(rng));
        }
        // ImmuDB finishes what it has received, although the service may no longer wait for it.
        let truth = tokio::spawn(ask(self.immudb.clone(), path, request)).await.unwrap();
        let before = match &truth {
            Ok(answer) => self.before.lock().unwrap().insert(method, answer.clone()),
            Err(_) => None,
        };
        let Some((lie, mut rng)) = lie else { return truth.map(Response::new) };
        let told: Bytes = match (lie, truth) {
            (Lie::Withhold, _) => std::future::pending().await,
            (Lie::Fail(_), _) => return Err(error(rng)),
            (_, Err(status)) => return Err(status),
            (Lie::Change, Ok(answer)) => fields::changed(&answer, &mut rng).into(),
            (Lie::ChangeField(number), Ok(answer)) => {
                fields::with_other_field(&answer, number, &mut rng).into()
            }
            (Lie::Repeat, Ok(answer)) => before.unwrap_or(answer),
            (Lie::Exchange, Ok(answer)) => self.exchange(answer).await,
        };
        Ok(Response::new(told))
    }

    /// Returns the answer to another call that is under way, and gives that call this one. Without
    /// another call, the answer stays as it is.
    async fn exchange(&self, answer: Bytes) -> Bytes {
        let theirs = {
            let mut waiting = self.waiting.lock().unwrap();
            if let Some((theirs, give)) = waiting.take() {
                _ = give.send(answer);
                return theirs;
            }
            let (give, theirs) = oneshot::channel();
            *waiting = Some((answer.clone(), give));
            theirs
        };
        let received = timeout(EXCHANGE_MAX, theirs).await;
        self.waiting.lock().unwrap().take();
        received.ok().and_then(Result::ok).unwrap_or(answer)
    }
}

async fn ask(immudb: Channel, path: PathAndQuery, request: Request<Bytes>) -> Result<Bytes, Status> {
    let session = request.metadata().get("sessionid").cloned();
    let mut passed_on = Request::new(request.into_inner());
    if let Some(session) = session {
        passed_on.metadata_mut().insert("sessionid", session);
    }
    let mut immudb = client::Grpc::new(immudb).max_decoding_message_size(MESSAGE_BYTES_MAX);
    immudb.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = immudb.unary(passed_on, path, Raw).await;
    // The headers of the answer belong to the other connection.
    let without_headers = |status: Status| {
        Status::with_details(status.code(), status.message(), Bytes::copy_from_slice(status.details()))
    };
    answer.map(Response::into_inner).map_err(without_headers)
}

/// Returns an error that ImmuDB or another proxy may send.
fn error(mut rng: Rng) -> Status {
    match rng.u8(..6) {
        0 => Status::unavailable("connection reset by peer"),
        1 => Status::unknown("max concurrency limit exceeded"),
        2 => Status::permission_denied("session not found"),
        3 => Status::failed_precondition("precondition failed: KeyMustExist"),
        4 => Status::unknown("data is corrupted: value length or digest mismatch"),
        _ => Status::unknown("tbtree: key not found"),
    }
}

/// Takes every call to ImmuDB.
#[derive(Clone)]
struct ImmuService(Arc<Answers>);

impl NamedService for ImmuService {
    const NAME: &'static str = "immudb.schema.ImmuService";
}

impl Service<http::Request<Body>> for ImmuService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answers = self.0.clone();
        Box::pin(async move {
            let path = request.uri().path_and_query().cloned().unwrap();
            let mut grpc = server::Grpc::new(Raw).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(grpc.unary(Call { answers, path }, request).await)
        })
    }
}

struct Call {
    answers: Arc<Answers>,
    path: PathAndQuery,
}

impl UnaryService<Bytes> for Call {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (answers, path) = (self.answers.clone(), self.path.clone());
        Box::pin(async move { answers.answer(path, request).await })
    }
}

/// Leaves messages as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
