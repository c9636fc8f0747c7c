//! Entry points of the fuzz targets: decode arbitrary bytes as answers of ImmuDB, and check what
//! follows from them. See [`crate::fuzzing`].

use std::str;

use prost::Message;
use tonic::Code;

use super::{
    Error, SetError, Sha256Hash, Transaction, TransactionKeys, TransactionPages, TxHeader, TxId,
    VerifiableEntry, VerifiableTx,
    error::{FailedCall, MESSAGE_CHARS_MAX},
    schema,
    verify::{Chain, DatabaseState, DualProof, LinearProof, PublicKey, TrustedState, verify_signature},
};

/// A key whose signatures are in the corpus.
const KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEh2514YolIBAOqQCE5ZAB74gnC91+
JmBw2sskv8RMf3Q18HByuaeXUdQ3ObTcRYaISUQ2kbIa/8h5NZIWW10XeA==
-----END PUBLIC KEY-----";

/// Decodes a `google.rpc.Status`, which is also the format of the details of an answer.
pub(crate) fn errors(bytes: &[u8]) {
    let Ok(answer) = tonic_types::pb::Status::decode(bytes) else { return };
    let code = Code::from_i32(answer.code);
    let failure = FailedCall::from_answer("Set", code, &answer.message, bytes);
    let error = Error::from(failure.clone());
    // One more character for the ellipsis of a truncated message.
    assert!(error.message.chars().count() <= MESSAGE_CHARS_MAX + 1);
    match SetError::from(failure) {
        SetError::Unknown(of_write) => assert_eq!(of_write, error),
        SetError::Conflict => assert!(!may_be_written(code), "a conflict by {code}"),
        SetError::NotWritten(of_write) => {
            assert!(!may_be_written(code), "not written by {code}");
            assert_eq!(of_write, error);
        }
    }
}

/// Returns whether a write may have taken effect despite this code, whatever text comes with it.
fn may_be_written(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::OutOfRange | Code::DataLoss
    )
}

/// Decodes a page of transactions, up to the first one that is malformed.
pub(crate) fn transactions(bytes: &[u8]) -> Vec<Transaction> {
    let Ok(page) = schema::TxList::decode(bytes) else { return Vec::new() };
    let mut transactions = Vec::new();
    for sent in page.txs {
        let count = sent.entries.len();
        let Ok(transaction) = Transaction::try_from(sent) else { break };
        assert!(transaction.entries.len() <= count);
        assert!(transaction.foreign_entries() <= transaction.header.entry_count as usize);
        transactions.push(transaction);
    }
    let first = transactions.first().map_or(TxId(1), |transaction| transaction.header.id);
    let mut pages = TransactionPages::from(first);
    let without_gap = transactions
        .iter()
        .zip(first.0..)
        .all(|(transaction, expected)| transaction.header.id == TxId(expected));
    assert_eq!(pages.advance(&transactions).is_ok(), without_gap);
    transactions
}

/// Decodes what ImmuDB certifies, and checks that nothing else is accepted in its place.
pub fn immudb_proofs(bytes: &[u8]) {
    if let Ok(sent) = schema::VerifiableTx::decode(bytes)
        && let Ok(answer) = VerifiableTx::try_from(sent)
    {
        verifiable_tx(&answer);
    }
    if let Ok(sent) = schema::VerifiableEntry::decode(bytes)
        && let Ok(answer) = VerifiableEntry::try_from(sent)
    {
        verifiable_entry(&answer);
    }
    if let Ok(sent) = schema::ImmutableState::decode(bytes)
        && let Ok(state) = DatabaseState::try_from(sent)
    {
        signed_state(&state);
    }
    if let Ok(sent) = schema::TxList::decode(bytes) {
        chained(sent.txs);
    }
    let read = str::from_utf8(bytes).ok().map(PublicKey::from_pem);
    // Every key is one line of 91 bytes in Base64.
    assert!(!matches!(read, Some(Ok(_)) if bytes.len() < 124), "a short key");
}

fn verifiable_tx(answer: &VerifiableTx) {
    for header in [&answer.proof.source, &answer.proof.target] {
        let Some(alh) = header.accumulated_hash() else { continue };
        let trusted = TrustedState { tx: header.id, alh };
        if answer.verify(trusted).is_err() {
            continue;
        }
        let other = TrustedState { alh: flipped(alh), ..trusted };
        assert!(answer.verify(other).is_err(), "with another state");
        for proof in changed(&answer.proof) {
            let wrong = VerifiableTx { proof, ..answer.clone() };
            assert!(wrong.verify(trusted).is_err(), "with {:?}", wrong.proof);
        }
    }
    if let Ok(chain) = answer.chain() {
        let target = &answer.proof.target;
        assert_eq!(Some(chain.state().alh), target.accumulated_hash());
        assert_eq!(chain.state().tx, target.id);
        assert_eq!(saved(&chain).as_ref(), Some(&chain));
    }
}

fn verifiable_entry(answer: &VerifiableEntry) {
    for header in [&answer.dual.source, &answer.dual.target] {
        let Some(alh) = header.accumulated_hash() else { continue };
        let trusted = TrustedState { tx: header.id, alh };
        if answer.verify(trusted).is_err() {
            continue;
        }
        let value = [answer.value.as_ref(), b"x".as_slice()].concat().into();
        let wrong = VerifiableEntry { value, ..answer.clone() };
        assert!(wrong.verify(trusted).is_err(), "with another value");
        for dual in changed(&answer.dual) {
            let wrong = VerifiableEntry { dual, ..answer.clone() };
            assert!(wrong.verify(trusted).is_err(), "with {:?}", wrong.dual);
        }
    }
}

/// Returns the proof with each of its parts changed.
fn changed(proof: &DualProof) -> Vec<DualProof> {
    let with = |change: &dyn Fn(&mut DualProof)| {
        let mut changed = proof.clone();
        change(&mut changed);
        changed
    };
    let lists: [fn(&mut DualProof) -> &mut Vec<Sha256Hash>; 4] = [
        |proof| &mut proof.inclusion,
        |proof| &mut proof.consistency,
        |proof| &mut proof.last_inclusion,
        |proof| &mut proof.linear.terms,
    ];
    let mut all = vec![
        with(&|proof| proof.target_tree_alh = flipped(proof.target_tree_alh)),
        with(&|proof| proof.source.entries_hash = flipped(proof.source.entries_hash)),
        with(&|proof| proof.target.tree_root = flipped(proof.target.tree_root)),
        with(&|proof| proof.target.timestamp_seconds ^= 1),
        with(&|proof| {
            let LinearProof { source, target, .. } = &mut proof.linear;
            (*source, *target) = (target.next(), source.next());
        }),
    ];
    for list in lists {
        all.push(with(&|proof| list(proof).push([7; 32])));
        let count = list(&mut proof.clone()).len();
        for index in 0..count {
            all.push(with(&|proof| {
                list(proof).remove(index);
            }));
            all.push(with(&|proof| {
                for hash in list(proof).iter_mut().skip(index).take(1) {
                    *hash = flipped(*hash);
                }
            }));
        }
    }
    all
}

fn flipped(hash: Sha256Hash) -> Sha256Hash {
    hash.map(|byte| byte ^ 0x80)
}

fn signed_state(state: &DatabaseState) {
    let Ok(key) = PublicKey::from_pem(KEY) else { return };
    if verify_signature(state, &key).is_err() {
        return;
    }
    let changed = [
        DatabaseState { database: format!("{}2", state.database), ..state.clone() },
        DatabaseState {
            state: TrustedState { tx: TxId(state.state.tx.0 ^ 1), ..state.state },
            ..state.clone()
        },
        DatabaseState {
            state: TrustedState { alh: flipped(state.state.alh), ..state.state },
            ..state.clone()
        },
        DatabaseState { signature: None, ..state.clone() },
    ];
    for wrong in changed {
        assert!(verify_signature(&wrong, &key).is_err(), "{wrong:?}");
    }
}

/// Links the transactions to one history, and appends them to its chain.
fn chained(sent: Vec<schema::Tx>) {
    let mut chain = Chain::empty();
    for sent in sent {
        let Ok(transaction) = TransactionKeys::try_from(sent) else { break };
        let mut fewer = transaction.clone();
        if transaction.check().is_ok() && fewer.entries.pop().is_some() {
            assert!(fewer.check().is_err(), "without its last entry");
        }
        let last = chain.state();
        let header = TxHeader {
            id: last.tx.next(),
            previous_hash: last.alh,
            tree_tx: last.tx,
            tree_root: if last.tx == TxId(0) { [0; 32] } else { chain.edge().root() },
            ..transaction.header
        };
        let truncated_tx = header.metadata.as_ref().and_then(|metadata| metadata.truncated_tx);
        let alh = header.accumulated_hash().filter(|_| truncated_tx.is_none());
        let before = chain.clone();
        let wrong = TxHeader { previous_hash: flipped(last.alh), ..header.clone() };
        assert!(chain.append(&wrong, None).is_err(), "with another previous hash");
        assert_eq!(chain, before);
        assert_eq!(chain.append(&header, None).is_ok(), alh.is_some());
        match alh {
            Some(alh) => assert_eq!(chain.state(), TrustedState { tx: header.id, alh }),
            None => assert_eq!(chain, before),
        }
        assert_eq!(saved(&chain).as_ref(), Some(&chain));
    }
}

/// Returns the chain as it is after it was saved and read again.
fn saved(chain: &Chain) -> Option<Chain> {
    Chain::from_parts(chain.state(), chain.edge_hashes().to_vec())
}
