//! Entry points of the fuzz targets: decode arbitrary bytes as answers of ImmuDB, and check what
//! follows from them. See [`crate::fuzzing`].

use prost::Message;
use tonic::Code;

use super::{
    Error, SetError, Transaction, TransactionPages, TxId,
    error::{FailedCall, MESSAGE_CHARS_MAX},
    schema,
};

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
