//! ImmuDB's own code is a second opinion on what `immudb::verify` computes and accepts, in both
//! directions. It runs in `tests/immudb/proofs`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use aethyr_event_store::immudb::{
    ErrorKind, KeyKind, KeyValue, Session, SessionSettings, Sha256Hash, TransactionKeys, TxHeader, TxId,
    verify::{Chain, DatabaseState, HeaderMismatch, PublicKey, SentEntries, TrustedState, verify_signature},
};
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{go::Module, immudb::ImmuDb};

mod lines;

const MODULE: Module = Module { source: "tests/immudb", target: "immudb-1.11.1" };
const DATABASE: &str = "aethyr";
/// Of all random choices.
const SEED: u64 = 17;

/// A server that signs its states.
struct Server {
    immudb: ImmuDb,
    key: PublicKey,
    signing: String,
    _dir: TempDir,
}

impl Server {
    async fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let [private, public] = ["private.pem", "public.pem"].map(|name| path(dir.path(), name));
        run(&["make-key", &private, &public]);
        let key = PublicKey::from_pem(&fs::read_to_string(public).unwrap()).unwrap();
        let signing = format!("--signingKey={private}");
        let immudb = ImmuDb::start_with(dir.path(), &[&signing]).await;
        Server { immudb, key, signing, _dir: dir }
    }

    async fn session(&self) -> Session {
        Session::open(&self.immudb.settings(DATABASE)).await.unwrap()
    }

    fn run(&self, database: &str, command: &str) -> Vec<Value> {
        run(&["--port", &self.immudb.port().to_string(), "--database", database, command])
    }
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

/// Runs the program, and returns the lines that it prints.
fn run(arguments: &[&str]) -> Vec<Value> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| MODULE.build("proofs", "./proofs", &["go.mod", "proofs/main.go"]));
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "proofs {arguments:?}: {errors}");
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn of_kind<'l>(lines: &'l [Value], kind: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

fn transactions(lines: &[Value]) -> Vec<TransactionKeys> {
    of_kind(lines, "transaction").into_iter().map(|line| lines::transaction(line).unwrap()).collect()
}

/// Returns the history up to each transaction, from 0 on.
fn chains(transactions: &[TransactionKeys]) -> Vec<Chain> {
    let mut chains = vec![Chain::empty()];
    for transaction in transactions {
        let mut chain = chains[chains.len() - 1].clone();
        chain.append(&transaction.header, None).unwrap();
        chains.push(chain);
    }
    chains
}

/// Reads all transactions from one on.
async fn read(session: &Session, first: TxId, limit: u32) -> Vec<TransactionKeys> {
    let mut all = Vec::new();
    let mut next = first;
    loop {
        let page = session.scan_headers(next, limit).await.unwrap();
        let Some(last) = page.last() else { return all };
        next = last.header.id.next();
        all.extend(page);
    }
}

/// Sends a transaction of each size, and holds the answers against the chain.
async fn send(session: &Session, chain: &mut Chain, sizes: &[usize], random: &mut fastrand::Rng) {
    for size in sizes {
        let tx = chain.state().tx.next();
        let entries: Vec<KeyValue> = (0..*size)
            .map(|number| KeyValue {
                key: Bytes::from(format!("own:{tx}:{number}")),
                value: (0..random.usize(..300)).map(|_| random.u8(..)).collect(),
            })
            .collect();
        let header = session.set(entries.clone(), vec![]).await.unwrap();
        let mut other = entries.clone();
        other[0].value = [&other[0].value[..], b"x"].concat().into();
        let mismatch = chain.append(&header, Some(&SentEntries::of(&other))).unwrap_err();
        assert!(matches!(mismatch, HeaderMismatch::EntriesHash { .. }), "{mismatch}");
        chain.append(&header, Some(&SentEntries::of(&entries))).unwrap();
    }
}

#[tokio::test]
async fn both_compute_the_same_hashes() {
    let mut server = Server::start().await;
    let session = server.session().await;
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut chain = Chain::empty();
    send(&session, &mut chain, &[1, 2, 3], &mut random).await;
    server.run(DATABASE, "write");
    server.run(DATABASE, "write-kinds");
    for transaction in read(&session, chain.state().tx.next(), 100).await {
        transaction.check().unwrap();
        chain.append(&transaction.header, None).unwrap();
    }
    send(&session, &mut chain, &[1, 1024, 1023, 513, 7], &mut random).await;
    // Now ImmuDB adds metadata to each transaction.
    let flags = [server.signing.clone(), "--log-request-metadata=true".into()];
    server.immudb.restart_with(&flags.each_ref().map(String::as_str)).await;
    let session = server.session().await;
    send(&session, &mut chain, &[1, 5, 64], &mut random).await;

    let lines = server.run(DATABASE, "read");
    let transactions = transactions(&lines);
    let has_extra = |transaction: &TransactionKeys| {
        transaction.header.metadata.as_ref().is_some_and(|metadata| !metadata.extra.is_empty())
    };
    assert!(transactions[transactions.len() - 3..].iter().all(has_extra));
    let chains = chains(&transactions);
    let computed: Vec<Sha256Hash> = chains[1..].iter().map(|chain| chain.state().alh).collect();
    let by_immudb: Vec<Sha256Hash> =
        of_kind(&lines, "transaction").into_iter().map(|line| lines::hash(&line["alh"]).unwrap()).collect();
    assert_eq!(computed, by_immudb);
    assert_eq!(chains.last(), Some(&chain), "from the answers to Set");
    let state = lines::state(of_kind(&lines, "state")[0]).unwrap();
    assert_eq!(state.state, chain.state());
    for line in &lines {
        assert_eq!(lines::verify(line, &server.key), Ok(()), "{line}");
    }
}

/// Returns how often a line is falsified: less often if it takes long to verify.
fn flips(line: &Value) -> usize {
    match line["kind"].as_str().unwrap() {
        "transaction" if line["entries"].as_array().unwrap().len() > 100 => 20,
        "transaction" => 60,
        "entry" => 40,
        "proof" => 30,
        "state" => 500,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn nothing_that_was_changed_is_accepted() {
    let server = Server::start().await;
    server.session().await.close().await;
    server.run(DATABASE, "write");
    server.run(DATABASE, "write-kinds");
    let lines = server.run(DATABASE, "read");
    for (kind, count) in [("transaction", 40), ("entry", 50), ("proof", 200), ("state", 1)] {
        let found = of_kind(&lines, kind).len();
        assert!(found >= count, "{found} of {kind}");
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut changes = 0;
    for line in &lines {
        assert_eq!(lines::verify(line, &server.key), Ok(()), "{line}");
        for _ in 0..flips(line) {
            let mut wrong = line.clone();
            let place = lines::flip(&mut wrong, &mut random);
            let outcome = lines::verify(&wrong, &server.key);
            assert!(outcome.is_err(), "{place} of {line} was {}", wrong.pointer(&place).unwrap());
            changes += 1;
        }
    }
    assert!(changes >= 10_000, "{changes} changes");
    let other = Server::start().await.key;
    for line in of_kind(&lines, "state").into_iter().chain(of_kind(&lines, "proof")) {
        assert!(lines::verify(line, &other).is_err(), "with the key of another server: {line}");
    }
}

#[tokio::test]
async fn no_changed_header_continues_the_chain() {
    let server = Server::start().await;
    server.session().await.close().await;
    server.run(DATABASE, "write-kinds");
    let lines = server.run(DATABASE, "read");
    let sent = of_kind(&lines, "transaction");
    let transactions = transactions(&lines);
    let chains = chains(&transactions);
    let state = lines::state(of_kind(&lines, "state")[0]).unwrap().state;
    let mut random = fastrand::Rng::with_seed(SEED);
    for _ in 0..2000 {
        let index = random.usize(..sent.len());
        let mut wrong = sent[index]["header"].clone();
        let place = lines::flip(&mut wrong, &mut random);
        let Some(wrong) = lines::header(&wrong) else { continue };
        assert_ne!(wrong, transactions[index].header, "{place}");
        let mut chain = chains[index].clone();
        let rest = transactions[index + 1..].iter().map(|transaction| &transaction.header);
        let is_accepted = [&wrong].into_iter().chain(rest).all(|header| chain.append(header, None).is_ok());
        assert!(!is_accepted || chain.state() != state, "{place} of transaction {}", index + 1);
    }
}

#[tokio::test]
async fn transactions_of_version_0_are_verified() {
    let server = Server::start().await;
    server.run("old", "create-version-0");
    server.run("old", "write");
    let lines = server.run("old", "read");
    let transactions = transactions(&lines);
    assert!(transactions.iter().all(|transaction| transaction.header.version == 0));
    let mut random = fastrand::Rng::with_seed(SEED);
    for line in &lines {
        assert_eq!(lines::verify(line, &server.key), Ok(()), "{line}");
        let mut wrong = line.clone();
        let place = lines::flip(&mut wrong, &mut random);
        assert!(lines::verify(&wrong, &server.key).is_err(), "{place} of {line}");
    }
    let mut chain = chains(&transactions).pop().unwrap();
    assert_eq!(chain.state(), lines::state(of_kind(&lines, "state")[0]).unwrap().state);

    // The service hashes its own entries for version 1 only, and says so.
    let session = Session::open_existing(&server.immudb.settings("old")).await.unwrap();
    let entries = vec![KeyValue { key: Bytes::from("a"), value: Bytes::from("1") }];
    let header: TxHeader = session.set(entries.clone(), vec![]).await.unwrap();
    let mismatch = chain.append(&header, Some(&SentEntries::of(&entries)));
    assert_eq!(mismatch, Err(HeaderMismatch::Version { tx: header.id, found: 0 }));
    assert_eq!(chain.append(&header, None), Ok(()));
}

#[tokio::test]
async fn headers_arrive_without_values_in_pages_that_fit() {
    let server = Server::start().await;
    // The value of one transaction has a mebibyte.
    let settings = SessionSettings { response_bytes_max: 128 * 1024, ..server.immudb.settings(DATABASE) };
    let session = Session::open(&settings).await.unwrap();
    assert_eq!(session.scan_headers(TxId(1), 10).await, Ok(vec![]));
    server.run(DATABASE, "write");
    server.run(DATABASE, "write-kinds");
    let expected = transactions(&server.run(DATABASE, "read"));
    let first = session.scan_headers(TxId(1), 100).await.unwrap();
    assert!((1..expected.len()).contains(&first.len()), "{} of {}", first.len(), expected.len());
    for limit in [1, 7, 100] {
        assert_eq!(read(&session, TxId(1), limit).await, expected, "{limit} at a time");
    }
    let last = expected.last().unwrap().header.id;
    assert_eq!(session.scan_headers(last.next(), 10).await, Ok(vec![]));
    let entries: Vec<_> = expected.iter().flat_map(|transaction| &transaction.entries).collect();
    for kind in [KeyKind::Plain, KeyKind::SortedSet, KeyKind::Sql, KeyKind::Document] {
        assert!(entries.iter().any(|entry| entry.kind == kind), "{kind:?}");
    }
    assert!(entries.iter().any(|entry| entry.key == "kinds:a" && entry.metadata.deleted));
    assert!(entries.iter().any(|entry| entry.metadata.expires_at.is_some()));
    let error = session.scan_headers(TxId(1), 0).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Rejected, "{error}");
}

#[tokio::test]
async fn a_state_and_one_proof_are_enough_to_start_with() {
    let server = Server::start().await;
    let session = server.session().await;
    let empty = session.current_state().await.unwrap();
    assert_eq!((empty.database.as_str(), empty.state), (DATABASE, TrustedState::empty()));
    assert_eq!(verify_signature(&empty, &server.key), Ok(()));
    server.run(DATABASE, "write");
    server.run(DATABASE, "write-kinds");
    let transactions = read(&session, TxId(1), 100).await;
    let chains = chains(&transactions);
    let last = chains.len() - 1;
    let state = session.current_state().await.unwrap();
    assert_eq!(state.state, chains[last].state());
    assert_eq!(verify_signature(&state, &server.key), Ok(()));

    for (index, transaction) in transactions.iter().enumerate() {
        let chain = &chains[index + 1];
        let (tx, trusted) = (chain.state().tx, chain.state());
        let alone = session.verifiable_tx(tx, tx).await.unwrap();
        assert_eq!((&alone.transaction, alone.chain().as_ref()), (transaction, Ok(chain)));
        assert_eq!(alone.verify(trusted), Ok(trusted));
        let since_last = session.verifiable_tx(tx, state.state.tx).await.unwrap();
        assert_eq!(since_last.verify(state.state), Ok(trusted));
        assert_eq!(since_last.chain().as_ref(), Ok(&chains[last]));
        // The signature is over the target of the proof.
        for (answer, target) in [(alone, trusted), (since_last, state.state)] {
            let signature = answer.signature;
            let signed = DatabaseState { database: DATABASE.into(), state: target, signature };
            assert_eq!(verify_signature(&signed, &server.key), Ok(()));
        }
    }
    let error = session.verifiable_tx(state.state.tx.next(), state.state.tx).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Rejected, "{error}");
}
