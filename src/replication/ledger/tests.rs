//! Tests of the ledger against a model of ImmuDB: answers that arrive, are lost, come late or lie,
//! with transactions of other clients in between.

use proptest::prelude::*;

use super::*;
use crate::merkle::{leaf_hash, root};

/// A database that commits what it is given, with the authors as they really are.
#[derive(Debug, Default, Clone)]
struct Database {
    headers: Vec<TxHeader>,
    authors: Vec<Author>,
}

impl Database {
    fn state(&self) -> TrustedState {
        self.headers.last().map_or_else(TrustedState::empty, |last| TrustedState {
            tx: last.id,
            alh: last.accumulated_hash().unwrap(),
        })
    }

    fn commit(&mut self, entries: SentEntries, author: Author) -> TxHeader {
        let leaves: Vec<_> =
            self.headers.iter().map(|header| leaf_hash(&header.accumulated_hash().unwrap())).collect();
        let last = self.state();
        let header = TxHeader {
            id: last.tx.next(),
            previous_hash: last.alh,
            timestamp_seconds: 1_700_000_000,
            entry_count: entries.count,
            entries_hash: entries.hash,
            tree_tx: last.tx,
            tree_root: if leaves.is_empty() { [0; 32] } else { root(&leaves) },
            version: 1,
            metadata: None,
        };
        self.headers.push(header.clone());
        self.authors.push(author);
        header
    }

    /// Has the ledger read the transactions that it lacks, up to `to`.
    fn read_into(&self, ledger: &mut Ledger, to: TxId) {
        while ledger.state().tx < to {
            let next = usize::try_from(ledger.state().tx.0).unwrap();
            assert_eq!(ledger.read(&self.headers[next]), Ok(self.authors[next]), "transaction {}", next + 1);
        }
    }
}

/// What becomes of a transaction that this process sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    /// It is committed, and the answer is lost.
    Lost,
    /// It is committed only after the answer was given up.
    Late,
    Never,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Another client commits.
    Foreign,
    /// This process sends one transaction, or two at once. `between` of another client come before
    /// the first.
    Send { first: Outcome, second: Option<Outcome>, between: u8 },
    /// The process is restarted.
    Restart,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Answered),
        1 => Just(Outcome::Lost),
        1 => Just(Outcome::Late),
        1 => Just(Outcome::Never),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Foreign),
        8 => (outcome(), proptest::option::of(outcome()), 0..3u8)
            .prop_map(|(first, second, between)| Step::Send { first, second, between }),
        1 => Just(Step::Restart),
    ]
}

/// Entries that no other transaction has.
fn entries(number: &mut u64) -> SentEntries {
    *number += 1;
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    SentEntries { count: 1 + u32::try_from(*number % 3).unwrap(), hash }
}

/// The service and ImmuDB.
struct World {
    database: Database,
    ledger: Ledger,
    /// Requests that ImmuDB has not committed yet.
    late: Vec<SentEntries>,
    number: u64,
}

impl World {
    /// Reads everything, as after a lost answer.
    fn catch_up(&mut self) {
        // What is late comes before the state is read.
        for sent in std::mem::take(&mut self.late) {
            self.database.commit(sent, Author::This);
        }
        let state = self.database.state();
        self.database.read_into(&mut self.ledger, state.tx);
        assert_eq!(self.ledger.state(), state);
    }

    fn answered(&mut self, header: &TxHeader, sent: &SentEntries) {
        let next = self.ledger.state().tx.next();
        match self.ledger.judge(header, sent) {
            Verdict::Expected => assert_eq!(header.id, next),
            Verdict::Foreign { from, to } => {
                assert_eq!((from, to.next()), (next, header.id));
                self.database.read_into(&mut self.ledger, to);
                assert_eq!(self.ledger.judge(header, sent), Verdict::Expected);
            }
            Verdict::Wrong(mismatch) => panic!("{mismatch}"),
        }
    }

    fn send(&mut self, outcomes: &[Outcome]) {
        let sent: Vec<_> = outcomes.iter().map(|outcome| (*outcome, entries(&mut self.number))).collect();
        // ImmuDB commits none before its predecessor.
        let committed =
            sent.iter().take_while(|(outcome, _)| matches!(outcome, Outcome::Answered | Outcome::Lost));
        let headers: Vec<_> = committed.map(|(_, sent)| self.database.commit(*sent, Author::This)).collect();
        let mut failed = false;
        for (place, (outcome, sent)) in sent.iter().enumerate() {
            let is_late = *outcome == Outcome::Late && headers.len() == place && self.late.is_empty();
            match headers.get(place).filter(|_| *outcome == Outcome::Answered && !failed) {
                Some(header) => self.answered(header, sent),
                // After a failure, the answers to the others are not judged.
                None => {
                    failed = true;
                    self.ledger.unanswered(*sent);
                    if is_late {
                        self.late.push(*sent);
                    }
                }
            }
        }
        if failed {
            self.catch_up();
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_lost_or_late_no_honest_answer_is_wrong_and_all_authors_are_known(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut world = World {
            database: Database::default(),
            ledger: Ledger::new(Chain::empty(), None),
            late: Vec::new(),
            number: 0,
        };
        for step in steps {
            match step {
                Step::Foreign => {
                    let entries = entries(&mut world.number);
                    _ = world.database.commit(entries, Author::Unknown);
                }
                Step::Send { first, second, between } => {
                    for _ in 0..between {
                        let entries = entries(&mut world.number);
                        _ = world.database.commit(entries, Author::Unknown);
                    }
                    let outcomes: Vec<_> = [Some(first), second].into_iter().flatten().collect();
                    world.send(&outcomes);
                }
                Step::Restart => {
                    world.catch_up();
                    world.ledger.settle();
                    world.ledger = Ledger::new(world.ledger.settled().clone(), None);
                    prop_assert!(!world.ledger.knows_all_senders());
                }
            }
        }
        world.catch_up();
        let last = world.database.state();
        prop_assert_eq!(world.ledger.newest(), last);
        prop_assert_eq!(world.ledger.hash_of(last.tx), Some(last.alh));
        prop_assert_eq!(world.ledger.hash_of(last.tx.next()), None);
    }

    #[test]
    fn no_changed_receipt_is_taken(committed in 0..6usize, field in 0..8usize, bit in 0..256usize) {
        let (mut database, mut ledger, mut number) =
            (Database::default(), Ledger::new(Chain::empty(), None), 0);
        for _ in 0..committed {
            let sent = entries(&mut number);
            let header = database.commit(sent, Author::This);
            prop_assert_eq!(ledger.judge(&header, &sent), Verdict::Expected);
        }
        let sent = entries(&mut number);
        let true_header = database.commit(sent, Author::This);
        let mut lie = true_header.clone();
        let flip = |hash: &mut Sha256Hash| hash[bit / 8] ^= 1 << (bit % 8);
        match field {
            0 => lie.id = TxId(lie.id.0 - 1),
            1 => lie.id = TxId(lie.id.0 + 1 + bit as u64),
            2 => flip(&mut lie.previous_hash),
            3 => lie.entry_count += 1,
            4 => flip(&mut lie.entries_hash),
            5 => lie.tree_tx = TxId(lie.tree_tx.0 + 1),
            6 => flip(&mut lie.tree_root),
            _ => lie.version = 0,
        }
        match ledger.clone().judge(&lie, &sent) {
            Verdict::Wrong(_) => prop_assert_ne!(field, 1),
            // There is nothing to read up to that number.
            Verdict::Foreign { to, .. } => prop_assert!(field == 1 && to >= true_header.id),
            Verdict::Expected => prop_assert!(false, "taken"),
        }
        // A judgement that fails changes nothing.
        prop_assert_eq!(ledger.judge(&true_header, &sent), Verdict::Expected);
    }
}

#[test]
fn a_changed_time_shows_with_the_next_transaction() {
    let (mut database, mut ledger, mut number) = (Database::default(), Ledger::new(Chain::empty(), None), 0);
    let sent = entries(&mut number);
    let header = database.commit(sent, Author::This);
    let lie = TxHeader { timestamp_seconds: 1, ..header };
    assert_eq!(ledger.judge(&lie, &sent), Verdict::Expected);
    let sent = entries(&mut number);
    let next = database.commit(sent, Author::This);
    assert!(matches!(ledger.judge(&next, &sent), Verdict::Wrong(HeaderMismatch::PreviousHash { .. })));
    // The receipt is taken back, and both are read.
    ledger.unanswered(sent);
    ledger.take_back();
    assert_eq!((ledger.state(), ledger.newest().tx), (TrustedState::empty(), TxId(1)));
    assert_eq!(ledger.hash_of(TxId(0)), Some(TrustedState::empty().alh));
    database.read_into(&mut ledger, TxId(2));
    assert_eq!(ledger.newest(), database.state());
}

#[test]
fn a_receipt_is_taken_back_only_for_the_same_transaction_and_before_anything_follows() {
    let (mut database, mut ledger, mut number) = (Database::default(), Ledger::new(Chain::empty(), None), 0);
    for _ in 0..2 {
        let sent = entries(&mut number);
        let header = database.commit(sent, Author::This);
        assert_eq!(ledger.judge(&header, &sent), Verdict::Expected);
    }
    let taken = ledger.state();
    assert_eq!(ledger.settled().state().tx, TxId(1));
    let mut settled = ledger.clone();
    settled.settle();
    assert_eq!(settled.settled().state(), taken);
    settled.take_back();
    assert_eq!(settled.state(), taken, "ImmuDB's state has confirmed it");

    ledger.take_back();
    assert_eq!(ledger.state().tx, TxId(1));
    ledger.take_back();
    assert_eq!(ledger.state().tx, TxId(1), "the second has confirmed the first");
    // Another transaction has its number.
    _ = database.headers.pop();
    let other = database.commit(entries(&mut number), Author::Unknown);
    let found = other.accumulated_hash().unwrap();
    let expected = Contradiction::OtherHash { tx: TxId(2), expected: taken.alh, found };
    assert_eq!(ledger.read(&other), Err(expected));
}

#[test]
fn what_was_read_has_to_pass_the_state_that_the_log_vouches_for() {
    let (mut database, mut number) = (Database::default(), 0);
    for _ in 0..3 {
        _ = database.commit(entries(&mut number), Author::Unknown);
    }
    let milestone = database.state();
    _ = database.commit(entries(&mut number), Author::Unknown);
    let mut ledger = Ledger::new(Chain::empty(), Some(milestone));
    assert_eq!((ledger.state().tx, ledger.newest()), (TxId(0), milestone));
    database.read_into(&mut ledger, TxId(4));
    assert_eq!(ledger.newest(), database.state());

    let other = TrustedState { alh: [1; 32], ..milestone };
    let mut ledger = Ledger::new(Chain::empty(), Some(other));
    database.read_into(&mut ledger, TxId(2));
    let contradiction = ledger.read(&database.headers[2]).unwrap_err();
    assert_eq!(
        contradiction,
        Contradiction::OtherHash { tx: TxId(3), expected: other.alh, found: milestone.alh }
    );
    assert_eq!(contradiction.transaction(), TxId(3));
}

#[test]
fn another_history_cannot_be_read() {
    let (mut ours, mut number) = (Database::default(), 0);
    for _ in 0..3 {
        _ = ours.commit(entries(&mut number), Author::Unknown);
    }
    let mut theirs = ours.clone();
    let mut ledger = Ledger::new(Chain::empty(), None);
    ours.read_into(&mut ledger, TxId(3));
    _ = theirs.headers.pop();
    _ = theirs.commit(entries(&mut number), Author::Unknown);
    _ = theirs.commit(entries(&mut number), Author::Unknown);
    let contradiction = ledger.read(&theirs.headers[3]).unwrap_err();
    assert!(matches!(contradiction, Contradiction::Header(HeaderMismatch::PreviousHash { .. })));
    assert_eq!(Contradiction::check(ours.state(), ours.state()), Ok(()));
    let lower = Contradiction::check(theirs.state(), ours.state()).unwrap_err();
    assert_eq!(lower, Contradiction::Missing { expected: TxId(4) });
}

#[test]
fn what_was_forgotten_is_not_said_to_be_known() {
    let (mut database, mut ledger, mut number) = (Database::default(), Ledger::new(Chain::empty(), None), 0);
    let sent = entries(&mut number);
    let header = database.commit(sent, Author::This);
    _ = ledger.judge(&header, &sent);
    assert!(ledger.knows_all_senders());
    for _ in 0..=Ledger::UNANSWERED_MAX {
        ledger.unanswered(entries(&mut number));
    }
    for _ in 0..2 {
        assert!(!ledger.knows_all_senders());
        let sent = entries(&mut number);
        let header = database.commit(sent, Author::This);
        assert_eq!(ledger.judge(&header, &sent), Verdict::Expected);
    }
    assert!(ledger.knows_all_senders(), "nothing sent before can still be committed");
}

/// The second of two in flight was sent with the number that was expected for the first. The first
/// one gets that number when it is sent again, and then the second may arrive.
#[test]
fn the_second_of_two_is_known_when_it_comes_after_a_retry_of_the_first() {
    for is_answered in [true, false] {
        let (mut database, mut ledger, mut number) =
            (Database::default(), Ledger::new(Chain::empty(), None), 0);
        let [first, second, again] = [(); 3].map(|()| entries(&mut number));
        ledger.unanswered(first);
        ledger.unanswered(second);
        let header = database.commit(again, Author::This);
        if is_answered {
            assert_eq!(ledger.judge(&header, &again), Verdict::Expected);
        } else {
            ledger.unanswered(again);
            database.read_into(&mut ledger, TxId(1));
        }
        _ = database.commit(second, Author::This);
        database.read_into(&mut ledger, TxId(2));
        // The first one can no longer be committed by then.
        let header = database.commit(first, Author::Unknown);
        assert_eq!(ledger.read(&header), Ok(Author::Unknown));
    }
}

#[test]
fn a_state_of_the_log_is_far_only_if_many_transactions_come_before_it() {
    let far = |tx| {
        let milestone = TrustedState { tx: TxId(tx), alh: [1; 32] };
        Ledger::new(Chain::empty(), Some(milestone)).far_milestone().map(|far| far.tx.0)
    };
    assert_eq!([far(1), far(20_000), far(20_001)], [None, None, Some(20_001)]);
    assert_eq!(Ledger::new(Chain::empty(), None).far_milestone(), None);
}

#[test]
fn the_hashes_of_the_last_transactions_are_kept() {
    let (mut database, mut ledger, mut number) = (Database::default(), Ledger::new(Chain::empty(), None), 0);
    assert_eq!(ledger.hash_of(TxId(0)), Some(TrustedState::empty().alh));
    let mut states = Vec::new();
    for _ in 0..20 {
        _ = database.commit(entries(&mut number), Author::Unknown);
        database.read_into(&mut ledger, database.state().tx);
        states.push(database.state());
    }
    for state in states {
        assert_eq!(ledger.hash_of(state.tx), Some(state.alh));
    }
    let restarted = Ledger::new(ledger.settled().clone(), None);
    assert_eq!(restarted.hash_of(TxId(20)), Some(database.state().alh));
    assert_eq!(restarted.hash_of(TxId(19)), None);
}
