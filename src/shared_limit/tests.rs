//! Tests of limits with several clients.

use super::*;

fn limit(max: u64) -> Arc<SharedLimit> {
    Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, max))
}

#[test]
fn no_caller_takes_the_whole_and_another_finds_room() {
    for max in [2u64, 3, 10, 20, 1000] {
        let (limit, greedy, other) = (limit(max), Caller::default(), Caller::default());
        let mut held = Vec::new();
        let refused = loop {
            match limit.acquire(&greedy, 1) {
                Ok(one) => held.push(one),
                Err(refused) => break refused,
            }
        };
        let share = (max / 2).max(1);
        let expected =
            LimitReached { limit: Limit::StreamsOpen, max, share: Some(share), is_identity: false };
        assert_eq!(refused, expected);
        assert_eq!(held.len() as u64, share.max(max * 4 / 5), "of {max}");
        let room = limit.acquire(&other, 1).unwrap();
        held.push(room);
        drop(held);
        assert_eq!((limit.used(), greedy.held(Resource::Streams)), (0, 0));
    }
}

#[test]
fn two_callers_can_have_all_of_it_and_no_more() {
    let (limit, one, other) = (limit(10), Caller::default(), Caller::default());
    let mut held: Vec<LimitGuard> = (0..5).map(|_| limit.acquire(&one, 1).unwrap()).collect();
    held.extend((0..5).map(|_| limit.acquire(&other, 1).unwrap()));
    let third = Caller::default();
    assert_eq!(limit.acquire(&third, 1).unwrap_err().share, None);
    held.pop();
    limit.acquire(&third, 1).unwrap();
}

#[test]
fn a_limit_of_one_can_be_taken() {
    let limit = limit(1);
    let held = limit.acquire(&Caller::default(), 1).unwrap();
    limit.acquire(&Caller::default(), 1).unwrap_err();
    drop(held);
    limit.acquire(&Caller::default(), 1).unwrap();
}

#[test]
fn an_amount_that_cant_grow_stays_what_it_was() {
    let (limit, caller) = (limit(100), Caller::default());
    let mut held = limit.acquire(&caller, 50).unwrap();
    held.resize(101).unwrap_err();
    assert_eq!((held.amount(), limit.used()), (50, 50));
    held.resize(20).unwrap();
    assert_eq!(limit.used(), 20);
    held.force(200);
    assert_eq!((held.amount(), limit.used()), (200, 200));
    drop(held);
    assert_eq!((limit.used(), caller.held(Resource::Streams)), (0, 0));
}

/// Takes one after the other until it is refused.
fn take_all(limit: &Arc<SharedLimit>, caller: &Caller) -> (Vec<LimitGuard>, LimitReached) {
    let mut held = Vec::new();
    loop {
        match limit.acquire(caller, 1) {
            Ok(one) => held.push(one),
            Err(refused) => return (held, refused),
        }
    }
}

#[test]
fn an_identity_has_its_own_share_and_all_below_four_fifths() {
    for (share, alone, beside_another) in [(0.05, 80, 40), (0.5, 80, 50), (0.9, 90, 60), (1.0, 100, 60)] {
        let (limit, one, other) = (limit(100), Caller::of_identity(share), Caller::of_identity(1.0));
        let (held, refused) = take_all(&limit, &one);
        assert_eq!(held.len(), alone, "{share}");
        let expected = (share < 1.0).then_some((share * 100.0) as u64);
        assert_eq!((refused.share, refused.is_identity), (expected, true), "{share}");
        drop(held);
        let theirs = limit.acquire(&other, 40).unwrap();
        let (held, _) = take_all(&limit, &one);
        assert_eq!(held.len(), beside_another, "{share}");
        drop((held, theirs));
        assert_eq!(limit.used(), 0);
    }
}

#[test]
fn a_changed_share_applies_at_once_and_leaves_what_is_held() {
    let (limit, caller) = (limit(100), Caller::of_identity(1.0));
    let (held, _) = take_all(&limit, &caller);
    assert_eq!(held.len(), 100);
    caller.set_share(0.5);
    assert_eq!(caller.held(Resource::Streams), 100);
    drop(held);
    assert_eq!(take_all(&limit, &caller).0.len(), 80);
}

#[test]
fn the_error_of_an_identity_names_its_share() {
    let (limit, identity, connection) = (limit(10), Caller::of_identity(0.5), Caller::default());
    let (held, refused) = take_all(&limit, &identity);
    let error = refused.into_error(Duration::from_secs(1));
    assert!(matches!(error, StoreError::Share(over) if over.max == 5), "{error:?}");
    let rest = limit.acquire(&connection, 2).unwrap();
    // Nothing is left, whatever its share.
    let full = limit.acquire(&identity, 1).unwrap_err().into_error(Duration::from_secs(1));
    assert!(matches!(full, StoreError::Full { share: None, max: 10, .. }), "{full:?}");
    drop((held, rest));
    let (_held, refused) = take_all(&limit, &connection);
    let error = refused.into_error(Duration::from_secs(1));
    assert!(matches!(error, StoreError::Full { share: Some(5), .. }), "{error:?}");
}

#[test]
fn an_amount_passes_to_another_client_within_its_share() {
    let (limit, unknown, identity) = (limit(10), Caller::default(), Caller::of_identity(0.2));
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut one = limit.nothing(&unknown);
        one.force(1);
        held.push(one);
    }
    let passed = held.iter_mut().map(|one| one.pass_to(&identity)).filter(Result::is_ok).count();
    assert_eq!((passed, limit.used()), (2, 10));
    assert_eq!([&identity, &unknown].map(|caller| caller.held(Resource::Streams)), [2, 8]);
    held[0].pass_to(&identity).unwrap();
    assert_eq!(identity.held(Resource::Streams), 2, "it was its own already");
    drop(held.split_off(2));
    held.push(limit.acquire(&unknown, 1).unwrap());
    held[2].pass_to(&identity).unwrap();
    drop(held);
    assert_eq!(limit.used(), 0);
    assert!([identity, unknown].iter().all(|caller| !caller.holds(Resource::Streams)));
}

#[test]
fn a_share_of_what_is_used_up_for_good_binds_above_four_fifths() {
    let exceeded = |mine, used| exceeded_share(0.5, 100, mine, used);
    assert_eq!(exceeded(80, 80), None, "four fifths are for the first to come");
    assert_eq!(exceeded(81, 81), Some(50));
    assert_eq!(exceeded(50, 100), None, "it is its share");
    assert_eq!(exceeded(51, 100), Some(50));
}
