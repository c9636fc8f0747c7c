//! Tests of the file of the findings: round trips, damage, and its limit.

use super::{FindingKind::*, *};

fn at(seconds: i64) -> Timestamp {
    Timestamp::new(seconds, 0).unwrap()
}

fn finding(kind: FindingKind, tx: u64, key: &str) -> Finding {
    Finding::new(kind, "this", "that").in_transaction(tx).of_key(key.as_bytes())
}

#[test]
fn findings_come_back_as_they_were_with_what_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.findings");
    let mut findings = Findings::open(&path).unwrap();
    assert!(findings.list().is_empty() && !path.exists(), "opening writes nothing");
    let kinds = [
        WrongAnswer,
        ForeignTransaction,
        ForeignKey,
        KeyDeleted,
        HeaderMismatch,
        OtherHash,
        Truncated,
        BadSignature,
        RecordDiffers,
        Damaged,
        LocalDamage,
        AnchorDiffers,
    ];
    for (number, kind) in (1..).zip(kinds) {
        findings.record(finding(kind, number, "event:a:1"), at(100));
    }
    findings.record(Finding::new(OtherHash, "", ""), at(200));
    findings.accept(&[2, 13, 77], "known", at(300));
    findings.save().unwrap();
    let again = Findings::open(&path).unwrap();
    assert_eq!(again.list(), findings.list());
    assert_eq!(again.open_numbers().collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(again.list()[1].accepted, Some(Acceptance { because: "known".into(), at: at(300) }));
    let line = fs::read_to_string(&path).unwrap();
    let expected = concat!(
        r#"{"number":3,"kind":"foreign_key","transaction":3,"key":"event:a:1","#,
        r#""expected":"this","found":"that","#,
        r#""first_seen":"1970-01-01T00:01:40Z","last_seen":"1970-01-01T00:01:40Z","count":1}"#,
    );
    assert_eq!(line.lines().nth(2), Some(expected));
}

#[test]
fn what_is_seen_again_is_counted_until_it_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut findings = Findings::open(&dir.path().join("log.findings")).unwrap();
    let mut count = |finding: Finding, seconds| {
        findings.record(finding, at(seconds));
        (findings.list().len(), findings.list().last().unwrap().count)
    };
    assert_eq!(count(finding(ForeignTransaction, 1, "shop:"), 10), (1, 1));
    assert_eq!(count(finding(ForeignTransaction, 2, "shop:"), 20), (1, 2), "one for each prefix");
    assert_eq!(count(finding(ForeignTransaction, 3, "bank:"), 30), (2, 1));
    assert_eq!(count(finding(WrongAnswer, 4, "x"), 40), (3, 1));
    assert_eq!(count(finding(WrongAnswer, 5, "y"), 50), (3, 2), "whatever the lie is");
    assert_eq!(count(finding(ForeignKey, 6, "event:a:1"), 60), (4, 1));
    assert_eq!(count(finding(ForeignKey, 6, "event:a:1"), 50), (4, 2));
    assert_eq!(count(finding(ForeignKey, 7, "event:a:1"), 70), (5, 1));
    assert_eq!(count(finding(KeyDeleted, 7, "event:a:1"), 80), (6, 1));
    let seen = |number: usize| (findings.list()[number].first_seen, findings.list()[number].last_seen);
    assert_eq!(seen(0), (at(10), at(20)));
    assert_eq!(seen(3), (at(60), at(60)), "the clock may be set back");
    findings.accept(&[4], "known", at(90));
    findings.record(finding(ForeignKey, 6, "event:a:1"), at(100));
    assert_eq!((findings.list().len(), findings.list()[6].number), (7, 7));
}

#[test]
fn damaged_lines_are_set_aside_and_cost_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.findings");
    let mut findings = Findings::open(&path).unwrap();
    for tx in 1..=3 {
        findings.record(finding(OtherHash, tx, "a"), at(1));
    }
    findings.save().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let damaged = [lines[0].as_bytes(), b"\n{\"number\":\n\xff\xfe\n", lines[2].as_bytes()].concat();
    fs::write(&path, &damaged).unwrap();
    let mut found = Findings::open(&path).unwrap();
    assert_eq!(found.list().iter().map(|found| found.number).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(fs::read(&path).unwrap(), damaged, "opening writes nothing");
    found.record(finding(OtherHash, 9, "a"), at(2));
    found.save().unwrap();
    assert_eq!(fs::read(dir.path().join("log.findings.damaged")).unwrap(), b"{\"number\":\n\xff\xfe\n");
    assert_eq!(Findings::open(&path).unwrap().list(), found.list());
}

#[test]
fn at_the_limit_the_rest_is_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.findings");
    let mut findings = Findings::open(&path).unwrap();
    for tx in 0..Findings::MAX as u64 + 5 {
        findings.record(finding(ForeignKey, tx, "event:a:1"), at(1));
    }
    assert_eq!((findings.list().len(), findings.open_count()), (Findings::MAX, Findings::MAX as u64 + 5));
    findings.save().unwrap();
    let mut again = Findings::open(&path).unwrap();
    assert_eq!((again.list(), again.open_count()), (findings.list(), findings.open_count()));
    let all: Vec<u64> = again.open_numbers().collect();
    again.accept(&all, "known", at(2));
    assert_eq!(again.open_count(), 0);
}

#[test]
fn a_deletion_is_accepted_for_its_key_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut findings = Findings::open(&dir.path().join("log.findings")).unwrap();
    for (kind, key) in [(KeyDeleted, "event:a:1"), (KeyDeleted, "event:a:2"), (ForeignKey, "event:a:3")] {
        findings.record(finding(kind, 1, key), at(1));
    }
    findings.accept(&[1, 3], "known", at(2));
    let accepted = ["event:a:1", "event:a:2", "event:a:3", "event:a:4"]
        .map(|key| findings.has_accepted_deletion(key.as_bytes()));
    assert_eq!(accepted, [true, false, false, false]);
}

#[test]
fn only_exactly_what_was_accepted_is_no_news() {
    let dir = tempfile::tempdir().unwrap();
    let mut findings = Findings::open(&dir.path().join("log.findings")).unwrap();
    let accepted = finding(RecordDiffers, 7, "event:a:1");
    findings.record(accepted.clone(), at(1));
    assert!(!findings.is_accepted(&accepted), "it is open");
    findings.accept(&[1], "known", at(2));
    assert!(findings.is_accepted(&accepted));
    let others = [
        finding(RecordDiffers, 8, "event:a:1"),
        finding(RecordDiffers, 7, "event:a:2"),
        finding(Damaged, 7, "event:a:1"),
        Finding { found: "yet another".into(), ..accepted.clone() },
        Finding { expected: "yet another".into(), ..accepted },
    ];
    for other in others {
        assert!(!findings.is_accepted(&other), "{other:?}");
    }
}

#[test]
fn an_accepted_checkpoint_of_an_anchor_is_no_news_however_the_log_has_grown() {
    let dir = tempfile::tempdir().unwrap();
    let mut findings = Findings::open(&dir.path().join("log.findings")).unwrap();
    let of = |place: &str, expected: &str, found: &str| {
        Finding::new(AnchorDiffers, expected, found).of_key(place.as_bytes())
    };
    findings.record(of("file: one", "9 events", "7 events"), at(1));
    findings.accept(&[1], "known", at(2));
    for found in ["7 events", "8 events", "the root 00"] {
        assert!(findings.is_accepted(&of("file: one", "9 events", found)), "{found}");
    }
    for (place, expected) in [("file: two", "9 events"), ("file: one", "10 events")] {
        assert!(!findings.is_accepted(&of(place, expected, "7 events")), "{place}, {expected}");
    }
}

#[test]
fn accepted_findings_leave_room_for_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut findings = Findings::open(&dir.path().join("log.findings")).unwrap();
    for tx in 1..=Findings::MAX as u64 {
        findings.record(finding(ForeignKey, tx, "event:a:1"), at(1));
    }
    findings.accept(&[3], "known", at(2));
    for tx in [20_001, 20_002] {
        findings.record(finding(KeyDeleted, tx, "event:a:1"), at(3));
    }
    assert_eq!((findings.list().len(), findings.open_count()), (Findings::MAX, Findings::MAX as u64 + 1));
    assert!(findings.open_numbers().eq((1..=2).chain(4..=Findings::MAX as u64 + 1)));
}

#[test]
fn a_client_whose_keys_all_differ_leaves_room_for_other_findings() {
    let dir = tempfile::tempdir().unwrap();
    let mut findings = Findings::open(&dir.path().join("log.findings")).unwrap();
    for number in 0..1000 {
        findings.record(finding(ForeignTransaction, number, &format!("{number}")), at(1));
        findings.record(finding(ForeignTransaction, number, "7"), at(1));
    }
    findings.record(finding(ForeignKey, 1, "event:a:1"), at(1));
    let counts: Vec<u64> = findings.list().iter().map(|found| found.count).collect();
    assert_eq!((counts.len(), counts[99], counts[100], counts[101]), (102, 1, 900, 1));
    assert_eq!(findings.list()[100].finding.key.as_deref(), Some(Findings::FURTHER_KEYS));
}

#[test]
fn what_comes_during_a_save_or_was_not_saved_is_saved_with_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.findings");
    let mut findings = Findings::open(&path).unwrap();
    findings.record(finding(OtherHash, 1, "a"), at(1));
    let save = findings.begin_save().unwrap();
    assert!(findings.begin_save().is_none());
    findings.record(finding(OtherHash, 2, "a"), at(1));
    save.run().unwrap();
    findings.end_save(true);
    assert_eq!(Findings::open(&path).unwrap().list().len(), 1);
    assert!(findings.begin_save().is_some());
    findings.end_save(false);
    findings.save().unwrap();
    assert_eq!(Findings::open(&path).unwrap().list().len(), 2);
}

#[test]
fn a_file_that_cannot_be_read_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.findings");
    fs::create_dir(&path).unwrap();
    assert!(Findings::open(&path).is_err());
    let mut findings = Findings::unreadable(&path);
    findings.record(finding(OtherHash, 1, "a"), at(1));
    assert_eq!(findings.open_count(), 1);
    assert!(findings.save().is_err());
}

#[test]
fn saves_of_what_can_be_found_again_are_a_second_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.findings");
    let mut findings = Findings::open(&path).unwrap();
    let mut saved_after = |seconds| {
        findings.record(finding(OtherHash, 1, "a"), at(seconds));
        if findings.is_save_due(at(seconds)) {
            findings.save().unwrap();
        }
        Findings::open(&path).unwrap().list()[0].count
    };
    assert_eq!([saved_after(100), saved_after(100), saved_after(101), saved_after(50)], [1, 1, 3, 4]);
}

#[test]
fn a_key_of_another_client_is_safe_to_print() {
    let finding = Finding::new(ForeignKey, "", "x".repeat(1000)).of_key(b"a\x1b[2J\n\xff");
    assert_eq!(finding.key.as_deref(), Some("a\\u001b[2J\\u000a\u{fffd}"));
    assert_eq!(finding.found.chars().count(), 301);
    let long = Finding::new(ForeignKey, "", "").of_key("ä".repeat(1000).as_bytes());
    assert_eq!(long.key.unwrap().chars().count(), 200);
}
