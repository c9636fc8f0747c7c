//! The findings of a service, as `aethyr-event-store findings` prints them, and their acceptance.

use serde_json::Value;

use super::Expected;
use crate::support::service::Service;

/// The names of the kinds.
pub const KEY_OVERWRITTEN: &str = "foreign_key";
pub const KEY_DELETED: &str = "key_deleted";
pub const FOREIGN_TRANSACTION: &str = "foreign_transaction";
pub const HEADER_MISMATCH: &str = "header_mismatch";
pub const OTHER_HASH: &str = "other_hash";
pub const WRONG_ANSWER: &str = "wrong_answer";
pub const BAD_SIGNATURE: &str = "bad_signature";

#[derive(Debug)]
pub struct Found {
    pub number: u64,
    pub kind: String,
    pub transaction: Option<u64>,
    pub key: Option<String>,
    /// How often it was found.
    pub count: u64,
    pub is_open: bool,
}

impl Found {
    fn of(line: &str) -> Self {
        let found: Value = serde_json::from_str(line).unwrap();
        for text in ["expected", "found", "first_seen", "last_seen"] {
            assert!(found[text].is_string(), "{line}");
        }
        Self {
            number: found["number"].as_u64().unwrap(),
            kind: found["kind"].as_str().unwrap().to_owned(),
            transaction: found["transaction"].as_u64(),
            key: found["key"].as_str().map(str::to_owned),
            count: found["count"].as_u64().unwrap(),
            is_open: found["accepted"].is_null(),
        }
    }

    pub(super) fn is_as(&self, expected: &Expected<'_>) -> bool {
        let is_in = |transaction| expected.transactions.contains(&transaction);
        expected.kinds.contains(&&*self.kind)
            && self.key.as_deref() == expected.key
            && self.transaction.is_some_and(is_in)
    }
}

pub fn all(service: &Service) -> Vec<Found> {
    let output = service.command(&["findings", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(Found::of).collect()
}

pub fn open(service: &Service) -> Vec<Found> {
    all(service).into_iter().filter(|found| found.is_open).collect()
}

/// Returns whether the command succeeded, and what it said.
pub fn accept(service: &Service, numbers: &[u64], because: &str) -> (bool, String) {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let mut arguments = vec!["resolve", "--accept-findings"];
    arguments.extend(numbers.iter().map(String::as_str));
    arguments.extend(["--because", because]);
    service.run(&arguments)
}

pub fn accept_all(service: &Service, because: &str) -> (bool, String) {
    let numbers: Vec<u64> = open(service).iter().map(|found| found.number).collect();
    accept(service, &numbers, because)
}
