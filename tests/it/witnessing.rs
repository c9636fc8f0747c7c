//! Witnesses: ours, which must survive everything without signing two histories, and one of
//! another project, which has to understand our client.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use aethyr_event_store::{
    proof::{Checkpoint, Hash, SignedNote, SigningKey, VerifierKey, consistency, leaf_hash, root},
    witness::{Client, Cosignature, WitnessError, WitnessSettings},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::support::{
    go::Module,
    port::Port,
    service::{PATIENCE, Service, Setup},
};

const MODULE: Module = Module { source: "tests/witness", target: "witness" };
const ORIGIN: &str = "log.example/witnessing";
const NAME: &str = "witness.example/w1";
const POLL: Duration = Duration::from_millis(20);

/// Returns leaf hashes. Those of other histories differ from the first one on.
fn leaves(history: u64, count: u64) -> Vec<Hash> {
    (0..count).map(|leaf| leaf_hash(format!("{history} {leaf}").as_bytes())).collect()
}

fn note(key: &SigningKey, leaves: &[Hash]) -> SignedNote {
    let checkpoint = Checkpoint::new(ORIGIN, leaves.len() as u64, root(leaves), vec![]).unwrap();
    SignedNote::sign(checkpoint.to_text(), key).unwrap()
}

fn client(port: u16, key: &VerifierKey) -> Client {
    let settings = WitnessSettings {
        url: format!("http://127.0.0.1:{port}"),
        key: key.clone(),
        ca_file: None,
        timeout: PATIENCE,
    };
    Client::new(settings).unwrap()
}

/// Has the tree of the first `size` leaves cosigned.
async fn add(
    client: &Client,
    log: &SigningKey,
    old_size: u64,
    leaves: &[Hash],
) -> Result<Cosignature, WitnessError> {
    let proof = consistency::prove(leaves, old_size).unwrap_or_default();
    client.add_checkpoint(old_size, &proof, &note(log, leaves)).await
}

/// Our witness in a process of its own.
struct Witness {
    log: SigningKey,
    arguments: Vec<String>,
    service: Service,
}

impl Witness {
    fn start() -> Self {
        let log = SigningKey::generate(ORIGIN).unwrap();
        let key = log.verifier().to_string();
        let arguments =
            ["witness", "--listen", "127.0.0.1:0", "--state", "w/state", "--name", NAME, "--log", &key]
                .map(str::to_owned);
        let listed: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let service = Service::launched(Setup::local().arguments(&listed));
        Self { log, arguments: arguments.to_vec(), service }
    }

    /// Returns the public key, which the log names.
    fn key(&self) -> VerifierKey {
        let log = self.service.log();
        let (_, after) = log.split_once("verifier_key=").unwrap_or_else(|| panic!("no key in:\n{log}"));
        VerifierKey::parse(after.split_whitespace().next().unwrap()).unwrap()
    }

    fn client(&self) -> Client {
        client(self.service.port(), &self.key())
    }

    /// Returns the size of the newest checkpoint, as the witness tells it.
    async fn size(&self) -> u64 {
        // No log has as many leaves, so it is always another size.
        let text = Checkpoint::new(ORIGIN, u64::MAX, [7; 32], vec![]).unwrap().to_text();
        let note = SignedNote::sign(text, &self.log).unwrap();
        match self.client().add_checkpoint(u64::MAX, &[], &note).await {
            Err(WitnessError::OtherSize { size }) => size,
            other => panic!("{other:?}"),
        }
    }

    /// Sends bytes, and returns everything that is answered until the connection is closed.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.service.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn status(refused: &WitnessError) -> u16 {
    match refused {
        WitnessError::Refused { status, message } if !message.is_empty() => *status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_cosigns_what_continues_and_nothing_else() {
    let mut witness = Witness::start();
    let (client, key) = (witness.client(), witness.key());
    assert_eq!(key.name(), NAME);
    for (old_size, size) in [(0, 3), (3, 3), (3, 7), (7, 64)] {
        let leaves = leaves(0, size);
        let cosigned = add(&client, &witness.log, old_size, &leaves).await.unwrap();
        let whole = [note(&witness.log, &leaves).to_bytes(), cosigned.lines.into_bytes()].concat();
        let whole = SignedNote::parse(&whole).unwrap();
        assert_eq!(whole.cosigned_at(&key), Ok(cosigned.cosigned_at));
    }
    let refused = add(&client, &witness.log, 7, &leaves(0, 70)).await.unwrap_err();
    assert!(matches!(refused, WitnessError::OtherSize { size: 64 }), "{refused}");
    let refused = add(&client, &witness.log, 64, &leaves(1, 70)).await.unwrap_err();
    assert_eq!(status(&refused), 422, "{refused}");
    let impostor = SigningKey::generate(ORIGIN).unwrap();
    let refused = add(&client, &impostor, 64, &leaves(0, 70)).await.unwrap_err();
    assert_eq!(status(&refused), 403, "{refused}");

    // It goes on after a clean stop, with the same key.
    assert_eq!(witness.service.stop().code(), Some(0), "{}", witness.service.log());
    witness.service.launch();
    assert_eq!((witness.key(), witness.size().await), (key, 64));
    add(&witness.client(), &witness.log, 64, &leaves(0, 70)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cosigned_survives_a_kill_at_any_moment() {
    let mut witness = Witness::start();
    let mut size = 0;
    for round in 0..10 {
        let (client, log) = (witness.client(), witness.log.encoded().expose().to_owned());
        let (cosigned, mut sizes) = mpsc::unbounded_channel();
        let sending = tokio::spawn(async move {
            let log = SigningKey::from_encoded(&log).unwrap();
            let mut sent = size;
            // Until the witness is gone.
            while add(&client, &log, sent, &leaves(0, sent + 1)).await.is_ok() {
                sent += 1;
                cosigned.send(sent).unwrap();
            }
            sent
        });
        for _ in 0..=round {
            sizes.recv().await.unwrap();
        }
        witness.service.kill();
        let cosigned = sending.await.unwrap();
        witness.service.launch();
        size = witness.size().await;
        // The last request may have been stored and not answered.
        assert!((cosigned..=cosigned + 1).contains(&size), "{size} after {cosigned} were cosigned");
        let refused = add(&witness.client(), &witness.log, size, &leaves(1, size + 1)).await.unwrap_err();
        assert_eq!(status(&refused), 422, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_histories_at_once_one_is_cosigned() {
    let witness = Witness::start();
    let client = witness.client();
    let histories: Vec<Vec<Hash>> = (0..16).map(|history| leaves(history, 2)).collect();
    let answers = join_all(histories.iter().map(|leaves| add(&client, &witness.log, 0, leaves))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    let others = answers.iter().filter_map(|answer| answer.as_ref().err());
    for refused in others {
        assert!(matches!(refused, WitnessError::OtherSize { size: 2 }), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_used_by_one_process_and_never_guessed() {
    let mut witness = Witness::start();
    add(&witness.client(), &witness.log, 0, &leaves(0, 5)).await.unwrap();
    let arguments: Vec<&str> = witness.arguments.iter().map(String::as_str).collect();
    let (succeeded, said) = witness.service.run(&arguments);
    assert!(!succeeded && said.contains("used by another process"), "{said}");

    witness.service.kill();
    let state = witness.service.dir().join("w/state");
    let whole = fs::read_to_string(&state).unwrap();
    fs::write(&state, whole.replace("\"size\":5", "\"size\":4")).unwrap();
    let (succeeded, said) = witness.service.run(&arguments);
    assert!(!succeeded && said.contains("damaged"), "{said}");
    fs::write(&state, whole).unwrap();
    witness.service.launch();
    assert_eq!(witness.size().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_checkpoint_is_public_and_requests_have_limits() {
    use sha2::{Digest, Sha256};
    let witness = Witness::start();
    let path = format!("/{}/checkpoint", hex::encode(Sha256::digest(ORIGIN)));
    let get =
        |path: &str| witness.raw(&format!("GET {path} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n"));
    assert!(get(&path).starts_with("HTTP/1.1 404 "), "{}", get(&path));
    let leaves = leaves(0, 5);
    let cosigned = add(&witness.client(), &witness.log, 0, &leaves).await.unwrap();
    let kept = get(&path);
    let (head, body) = kept.split_once("\r\n\r\n").unwrap();
    let signed = String::from_utf8(note(&witness.log, &leaves).to_bytes()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, format!("{signed}{}", cosigned.lines));

    let post = |path: &str, body: &str| {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {length}");
        witness.raw(&format!("{head}\r\n\r\n{body}"))
    };
    for (path, body, expected) in [
        ("/add-checkpoint", "old 5\n", "400"),
        ("/add-checkpoint", "", "400"),
        ("/", "", "404"),
        ("/checkpoint", "", "404"),
    ] {
        let answer = post(path, body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{path} {body:?}: {answer}");
    }
    let wrong_method = get("/add-checkpoint");
    assert!(wrong_method.starts_with("HTTP/1.1 405 "), "{wrong_method}");
    // One byte more than the limit.
    let long = "a".repeat((64 << 10) + 1);
    let answer = post("/add-checkpoint", &long);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| MODULE.build("witness", ".", &["go.mod", "log.go", "main.go"]))
}

/// Returns the witness of `filippo.io/torchwood`, another implementation of the protocol.
fn litewitness() -> PathBuf {
    MODULE.build("litewitness", "filippo.io/torchwood/cmd/litewitness", &["go.mod"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_go_accepts_our_witness() {
    let witness = Witness::start();
    let url = format!("http://127.0.0.1:{}", witness.service.port());
    let private = witness.log.encoded().expose();
    let output =
        Command::new(program()).args(["log", &url, private, &witness.key().to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(witness.size().await, 300);
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes into the database of `litewitness` that it cosigns for this log. Its own program for that
/// needs modules that are not everywhere available.
fn know_log(database: &Path, log: &VerifierKey) {
    let database = rusqlite::Connection::open(database).unwrap();
    let tables = "CREATE TABLE log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL);
        CREATE TABLE key (origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin));";
    database.execute_batch(tables).unwrap();
    let empty = BASE64_STANDARD.encode(root(&[]));
    database.execute("INSERT INTO log VALUES (?, 0, ?)", (log.name(), empty)).unwrap();
    database.execute("INSERT INTO key VALUES (?, ?)", (log.name(), log.to_string())).unwrap();
}

/// The witness of another project, with what it signs with.
struct LiteWitness {
    key: VerifierKey,
    port: Port,
    _processes: [Running; 2],
    _dir: tempfile::TempDir,
}

impl LiteWitness {
    fn start(log: &VerifierKey) -> Self {
        let dir = tempfile::tempdir().unwrap();
        know_log(&dir.path().join("witness.db"), log);

        let mut agent = Command::new(program())
            .current_dir(dir.path())
            .args(["agent", "agent.sock"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut fingerprint = String::new();
        BufReader::new(agent.stdout.take().unwrap()).read_line(&mut fingerprint).unwrap();
        let agent = Running(agent);

        let (port, said) = (Port::free(), dir.path().join("witness.log"));
        let address = format!("127.0.0.1:{}", port.number());
        let process = Command::new(litewitness())
            .current_dir(dir.path())
            .args(["-name", "witness.example/lite", "-db", "witness.db", "-ssh-agent", "agent.sock"])
            .args(["-key", fingerprint.trim(), "-listen", &address])
            .stderr(File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let mut process = Running(process);
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(&address).is_err() {
            let said = fs::read_to_string(&said).unwrap();
            assert!(process.0.try_wait().unwrap().is_none(), "litewitness ended:\n{said}");
            assert!(Instant::now() < until, "litewitness does not listen:\n{said}");
            std::thread::sleep(POLL);
        }
        let said = fs::read_to_string(&said).unwrap();
        let (_, key) = said.split_once("vkey=").unwrap_or_else(|| panic!("no key in:\n{said}"));
        let key = key.split_whitespace().next().unwrap().trim_matches('"');
        Self { key: VerifierKey::parse(key).unwrap(), port, _processes: [process, agent], _dir: dir }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_of_another_project_cosigns_for_our_client() {
    let log = SigningKey::generate(ORIGIN).unwrap();
    let witness = LiteWitness::start(log.verifier());
    let client = client(witness.port.number(), &witness.key);
    for (old_size, size) in [(0, 1), (1, 3), (3, 3), (3, 8), (8, 100)] {
        let leaves = leaves(0, size);
        let cosigned = add(&client, &log, old_size, &leaves).await.unwrap();
        let whole = [note(&log, &leaves).to_bytes(), cosigned.lines.into_bytes()].concat();
        let whole = SignedNote::parse(&whole).unwrap();
        assert_eq!(whole.cosigned_at(&witness.key), Ok(cosigned.cosigned_at));
    }
    let refused = add(&client, &log, 8, &leaves(0, 120)).await.unwrap_err();
    assert!(matches!(refused, WitnessError::OtherSize { size: 100 }), "{refused}");
    let refused = add(&client, &log, 100, &leaves(1, 120)).await.unwrap_err();
    assert_eq!(status(&refused), 422, "{refused}");
}
