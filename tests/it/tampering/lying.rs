//! ImmuDB's answers are changed, repeated, exchanged or withheld on the way to the service.
//!
//! No lie makes it report an event as stored in ImmuDB that is not there, and no append fails. The
//! number of random lies is in the environment variable `LIES`, and the first seed in `LIES_SEED`.

use std::{
    env,
    io::{self, Write},
    thread,
};

use aethyr_event_store::grpc::wire::{AppendEventsResponse, State, StatsResponse, StoredIn};
use fastrand::Rng;
use tempfile::{TempDir, tempdir};

use super::{
    BECAUSE, DATABASE,
    findings::{self, WRONG_ANSWER},
    liar::{Liar, Lie, Moment, Plan},
    sized_event,
};
use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, event, request, whole_order},
        immudb::{ImmuDb, other_client::OtherClient},
        service::{Service, Setup},
        stored::assert_written_once,
    },
};

/// Enough for each test, and few enough for a run of all tests.
const LIES: u64 = 60;
const TESTS: u64 = 2;

/// The size of an event's data. Two of them fit into one transaction, and the rest has to wait or
/// is sent in a second one.
const EVENT_BYTES: usize = 400;
const CALLERS: usize = 5;

/// A service that sees ImmuDB through the liar.
struct Game {
    immudb: ImmuDb,
    truth: OtherClient,
    liar: Liar,
    service: Service,
    /// The current lie, which a failure has to name.
    current: String,
    /// Removed after ImmuDB has ended, which writes to it.
    _dir: TempDir,
}

impl Drop for Game {
    fn drop(&mut self) {
        if thread::panicking() {
            _ = writeln!(io::stderr(), "{}", self.current);
        }
    }
}

/// Lies, and what makes the service ask.
#[derive(Debug)]
struct Round {
    plans: Vec<Plan>,
    /// Another client writes, so that the service has to read a transaction that is not its own.
    has_foreign: bool,
}

impl Round {
    fn draw(rng: &mut Rng) -> Self {
        let plan = |method, lie, times| Plan { method, lie, times };
        // After this, the service reads again what ImmuDB has.
        let lost = plan("Set", Lie::Fail(Moment::After), 1);
        let one = |plan| Self { plans: vec![plan], has_foreign: false };
        match rng.u8(..20) {
            0..7 => one(plan("Set", Lie::Change, rng.u32(1..=3))),
            7..9 => Self { plans: vec![lost, plan("Get", any(rng), 1)], has_foreign: false },
            9..11 => one(plan("Set", Lie::Repeat, rng.u32(1..=2))),
            11 => one(plan("Set", Lie::Exchange, 2)),
            12 => one(plan("Set", Lie::Withhold, 1)),
            13 => one(plan("Set", Lie::Fail(Moment::Before), rng.u32(1..=3))),
            14 => one(plan("Set", Lie::Fail(Moment::After), rng.u32(1..=3))),
            15 => Self { plans: vec![lost, plan("CurrentState", any(rng), 1)], has_foreign: false },
            16 => Self { plans: vec![lost, plan("VerifiableTxById", any(rng), 1)], has_foreign: false },
            17..19 => Self { plans: vec![plan("TxScan", any(rng), 1)], has_foreign: true },
            _ => {
                let method = if rng.bool() { "Get" } else { "OpenSession" };
                let fail = plan(method, Lie::Fail(Moment::Before), 1);
                Self { plans: vec![plan("Set", Lie::Withhold, 1), fail], has_foreign: false }
            }
        }
    }
}

fn any(rng: &mut Rng) -> Lie {
    match rng.u8(..6) {
        0 => Lie::Repeat,
        1 => Lie::Fail(Moment::After),
        _ => Lie::Change,
    }
}

impl Game {
    async fn begin(seed: u64) -> Self {
        let dir = tempdir().unwrap();
        // Sessions that the service gives up stay open for minutes.
        let immudb = ImmuDb::start_with(dir.path(), &["--max-sessions=10000"]).await;
        let liar = Liar::start(immudb.port(), seed).await;
        // Clients wait for ImmuDB as long as it takes, so that only a lie keeps an event from it.
        let setup = Setup::with_immudb(liar.port())
            .set("immudb", "keep_alive: 1.0")
            .set("immudb", "request_timeout: 2.0")
            .set("immudb", "retry_count: 1000")
            .set("immudb", "retry_delay: 0.02")
            .set("immudb", "retry_delay_max: 0.1")
            .set("immudb", "batch_bytes_max: 1000");
        let service = Service::start(setup).await;
        append(&mut service.client(), vec![event("room-0")]).await;
        service.wait_until_forwarded().await;
        let truth = OtherClient::log_in(&immudb, DATABASE).await;
        Self { immudb, truth, liar, service, current: String::new(), _dir: dir }
    }

    /// Appends at the same time from several clients. Every append has to be accepted.
    async fn append(&self) -> Vec<(String, AppendEventsResponse)> {
        let appending = (0..CALLERS).map(|caller| {
            let new = sized_event(&format!("room-{caller}"), EVENT_BYTES);
            let (id, mut client) = (new.event_id.clone(), self.service.client());
            tokio::spawn(async move { (id, client.append_events(request(vec![new])).await) })
        });
        let mut answers = Vec::new();
        for appending in appending.collect::<Vec<_>>() {
            let (id, answer) = appending.await.unwrap();
            answers.push((id, answer.unwrap().into_inner()));
        }
        answers
    }

    /// Asserts that the local log has each event, and that ImmuDB has those whose answers say so.
    async fn assert_true(&self, answers: &[(String, AppendEventsResponse)]) {
        let order = whole_order(&mut self.service.client()).await;
        for (id, answer) in answers {
            let event = &order[answer.first_position as usize - 1];
            assert_eq!(event.event_id, *id);
            if answer.stored_in() == StoredIn::Immudb {
                assert_eq!(self.truth.transaction_of(event).await, Some(answer.immudb_tx), "{answer:?}");
            }
        }
    }

    /// Ends the lies, and helps the service where it needs an operator.
    async fn recover(&mut self) {
        self.liar.plan(&[]);
        let is_decided = |stats: &StatsResponse| match stats.state() {
            State::Connected => stats.pending_events == 0,
            State::Tampered | State::Suspect | State::Fenced => true,
            _ => false,
        };
        let state = self.service.wait_for("an end of the lies", is_decided).await.state();
        assert!(!self.service.log().contains("panicked"), "{}", self.service.log());
        match state {
            State::Connected => return,
            State::Tampered => {
                assert!(self.service.stop().success());
                let (done, said) = findings::accept_all(&self.service, BECAUSE);
                assert!(done, "{said}");
            }
            // With the truth, it sees that nothing is missing.
            State::Suspect => assert!(self.service.stop().success()),
            other => panic!("{other:?}"),
        }
        self.service.restart().await;
        self.service.wait_until_forwarded().await;
    }

    async fn play(&mut self, round: &Round) {
        self.liar.plan(&round.plans);
        if round.has_foreign {
            self.truth.write("other:1", b"x").await;
        }
        let answers = self.append().await;
        // Some lies are about calls that follow the appends.
        let has_lied =
            async || self.liar.has_lied() || self.service.stats().await.state() != State::Connected;
        self.service.wait_until("the lies have been told", has_lied).await;
        self.assert_true(&answers).await;
        self.recover().await;
    }
}

/// Returns the number in an environment variable.
fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Lies at random, from one seed.
async fn lie(test: u64) {
    let seed = number("LIES_SEED", 1).wrapping_add(test);
    let mut rng = Rng::with_seed(seed);
    let mut game = Game::begin(seed).await;
    for lie in 1..=number("LIES", LIES).div_ceil(TESTS) {
        let round = Round::draw(&mut rng);
        game.current = format!("seed {seed}, lie {lie}: {round:?}");
        game.play(&round).await;
    }
    let order = whole_order(&mut game.service.client()).await;
    assert_in_immudb(&game.immudb, &order);
    assert_written_once(&game.immudb, &order);
}

// Two tests, so that both cores are busy.
#[tokio::test(flavor = "multi_thread")]
async fn no_random_lie_is_believed() {
    lie(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_random_lie_is_believed() {
    lie(1).await;
}

/// A second look in a new session finds that ImmuDB has committed the right transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_that_a_second_look_refutes_is_a_finding_and_no_more() {
    /// The fields of a transaction's header: its number, the hash before it, the number and the
    /// hash of its entries, and the last leaf and the root of the tree.
    const FIELDS: [u64; 6] = [1, 2, 4, 5, 6, 7];
    let game = Game::begin(1).await;
    let mut client = game.service.client();
    for (count, field) in (1..).zip(FIELDS) {
        game.liar.plan(&[Plan { method: "Set", lie: Lie::ChangeField(field), times: 1 }]);
        let new = event("room-0");
        let id = new.event_id.clone();
        let answer = append(&mut client, vec![new]).await;
        assert!(game.liar.has_lied());
        game.assert_true(&[(id, answer)]).await;
        game.service.wait_for("a finding", |stats| stats.open_findings == 1).await;
        let stats = game.service.wait_until_forwarded().await;
        assert_eq!((stats.event_count, stats.fallbacks), (1 + count, 0), "field {field}");
    }
    let counts_all = async || {
        let open = findings::open(&game.service);
        open.iter().all(|found| found.kind == WRONG_ANSWER && found.count == FIELDS.len() as u64)
    };
    game.service.wait_until("all wrong answers are counted", counts_all).await;
    let order = whole_order(&mut client).await;
    assert_in_immudb(&game.immudb, &order);
    assert_written_once(&game.immudb, &order);
}

/// What `log:head` says decides whether the service may write at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_head_that_a_second_look_refutes_is_a_finding_and_no_more() {
    /// The field of the value in the answer to `Get`.
    const VALUE: u64 = 3;
    const ROUNDS: u64 = 12;
    let game = Game::begin(1).await;
    let mut client = game.service.client();
    for count in 1..=ROUNDS {
        // The lost answer makes the service read the head.
        let lost = Plan { method: "Set", lie: Lie::Fail(Moment::After), times: 1 };
        let changed = Plan { method: "Get", lie: Lie::ChangeField(VALUE), times: 1 };
        game.liar.plan(&[lost, changed]);
        let new = event("room-0");
        let id = new.event_id.clone();
        let answer = append(&mut client, vec![new]).await;
        assert!(game.liar.has_lied());
        game.assert_true(&[(id, answer)]).await;
        let stats = game.service.wait_until_forwarded().await;
        assert_eq!((stats.state(), stats.event_count), (State::Connected, 1 + count));
    }
    let counts_all = async || {
        let open = findings::open(&game.service);
        open.iter().all(|found| found.kind == WRONG_ANSWER)
            && open.iter().map(|found| found.count).sum::<u64>() == ROUNDS
    };
    game.service.wait_until("all wrong answers are counted", counts_all).await;
    let order = whole_order(&mut client).await;
    assert_in_immudb(&game.immudb, &order);
    assert_written_once(&game.immudb, &order);
}

/// The answers to two transactions that are under way come to the wrong ones.
#[tokio::test(flavor = "multi_thread")]
async fn exchanged_answers_are_not_believed() {
    let mut game = Game::begin(1).await;
    let plans = vec![Plan { method: "Set", lie: Lie::Exchange, times: u32::MAX }];
    for _ in 0..3 {
        game.play(&Round { plans: plans.clone(), has_foreign: false }).await;
    }
    let order = whole_order(&mut game.service.client()).await;
    assert_in_immudb(&game.immudb, &order);
    assert_written_once(&game.immudb, &order);
}
