//! The lines of `tests/immudb/proofs`: reading, verifying and falsifying them.

use aethyr_event_store::immudb::{
    EntryKey, EntryMetadata, KeyKind, Sha256Hash, TransactionKeys, TxHeader, TxId, TxMetadata,
    verify::{
        DatabaseState, DualProof, EntryProof, LinearProof, PublicKey, TrustedState, entry_digest,
        raw_entry_digest, verify_dual_proof, verify_entry, verify_signature,
    },
};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Verifies everything that a line has. A line that cannot be read is rejected, too.
pub fn verify(line: &Value, key: &PublicKey) -> Result<(), String> {
    let kind = line["kind"].as_str().unwrap();
    match kind {
        "transaction" => verify_transaction(line),
        "entry" => verify_entry_line(line),
        "proof" => verify_proof(line, key),
        "state" => {
            let state = state(line).ok_or("malformed")?;
            verify_signature(&state, key).map_err(|error| error.to_string())
        }
        other => panic!("{other}"),
    }
}

fn verify_transaction(line: &Value) -> Result<(), String> {
    let transaction = transaction(line).ok_or("malformed")?;
    transaction.check().map_err(|mismatch| mismatch.to_string())?;
    check_alh(&transaction.header, &line["alh"])?;
    for (entry, sent) in transaction.entries.iter().zip(line["entries"].as_array().unwrap()) {
        if entry.digest(transaction.header.version) != hash(&sent["digest"]) {
            return Err(format!("the digest of {entry:?}"));
        }
    }
    Ok(())
}

fn verify_entry_line(line: &Value) -> Result<(), String> {
    let header = header(&line["header"]).ok_or("malformed")?;
    check_alh(&header, &line["alh"])?;
    let proof = EntryProof {
        leaf: small(&line["leaf"]).ok_or("malformed")?,
        width: small(&line["width"]).ok_or("malformed")?,
        terms: hashes(&line["terms"]).ok_or("malformed")?,
    };
    let (key, value) = bytes(&line["key"]).zip(bytes(&line["value"])).ok_or("malformed")?;
    let value_hash = Sha256::digest([b"\0", value.as_slice()].concat()).into();
    let raw_key = [b"\0", key.as_slice()].concat();
    let digest = raw_entry_digest(&raw_key, b"", &value_hash, header.version).ok_or("no digest")?;
    if header.version == 1 {
        assert_eq!(digest, entry_digest(&key, &value), "in both ways");
    }
    verify_entry(&proof, &digest, &header).map_err(|mismatch| mismatch.to_string())
}

fn verify_proof(line: &Value, key: &PublicKey) -> Result<(), String> {
    let proof = dual_proof(line).ok_or("malformed")?;
    let state = state(&line["state"]).ok_or("malformed")?;
    let alh = hash(&line["source_alh"]).ok_or("malformed")?;
    let source = TrustedState { tx: proof.source.id, alh };
    verify_dual_proof(&proof, source, state.state).map_err(|mismatch| mismatch.to_string())?;
    verify_signature(&state, key).map_err(|error| error.to_string())
}

fn check_alh(header: &TxHeader, sent: &Value) -> Result<(), String> {
    let alh = header.accumulated_hash().ok_or("no hash")?;
    if hash(sent) == Some(alh) { Ok(()) } else { Err(format!("the hash is {}", hex::encode(alh))) }
}

pub fn transaction(line: &Value) -> Option<TransactionKeys> {
    let entries: Option<Vec<EntryKey>> = line["entries"].as_array()?.iter().map(entry).collect();
    Some(TransactionKeys { header: header(&line["header"])?, entries: entries? })
}

fn entry(value: &Value) -> Option<EntryKey> {
    let key = bytes(&value["key"])?;
    let expires_at = match &value["expires_at"] {
        Value::Null => None,
        seconds => Some(seconds.as_i64()?),
    };
    Some(EntryKey {
        kind: KeyKind::of_prefix(*key.first()?),
        key: Bytes::copy_from_slice(&key[1..]),
        metadata: EntryMetadata {
            deleted: value["deleted"].as_bool()?,
            expires_at,
            non_indexable: value["non_indexable"].as_bool()?,
        },
        value_hash: hash(&value["value_hash"])?,
    })
}

pub fn state(line: &Value) -> Option<DatabaseState> {
    let state = TrustedState { tx: TxId(line["tx"].as_u64()?), alh: hash(&line["alh"])? };
    let signature = Some(bytes(&line["signature"])?.into());
    Some(DatabaseState { database: line["database"].as_str()?.into(), state, signature })
}

fn dual_proof(line: &Value) -> Option<DualProof> {
    Some(DualProof {
        source: header(&line["source"])?,
        target: header(&line["target"])?,
        inclusion: hashes(&line["inclusion"])?,
        consistency: hashes(&line["consistency"])?,
        target_tree_alh: hash(&line["target_tree_alh"])?,
        last_inclusion: hashes(&line["last_inclusion"])?,
        linear: LinearProof {
            source: TxId(line["linear"]["source"].as_u64()?),
            target: TxId(line["linear"]["target"].as_u64()?),
            terms: hashes(&line["linear"]["terms"])?,
        },
    })
}

pub fn header(value: &Value) -> Option<TxHeader> {
    let truncated_tx = Some(value["truncated_tx"].as_u64()?).filter(|tx| *tx > 0).map(TxId);
    let extra = Bytes::from(bytes(&value["extra"])?);
    let has_metadata = truncated_tx.is_some() || !extra.is_empty();
    Some(TxHeader {
        id: TxId(value["id"].as_u64()?),
        previous_hash: hash(&value["previous_hash"])?,
        timestamp_seconds: value["seconds"].as_i64()?,
        entry_count: small(&value["entry_count"])?,
        entries_hash: hash(&value["entries_hash"])?,
        tree_tx: TxId(value["tree_tx"].as_u64()?),
        tree_root: hash(&value["tree_root"])?,
        version: u16::try_from(value["version"].as_u64()?).ok()?,
        metadata: has_metadata.then_some(TxMetadata { truncated_tx, extra }),
    })
}

fn small(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    hex::decode(value.as_str()?).ok()
}

pub fn hash(value: &Value) -> Option<Sha256Hash> {
    bytes(value)?.try_into().ok()
}

fn hashes(value: &Value) -> Option<Vec<Sha256Hash>> {
    value.as_array()?.iter().map(hash).collect()
}

/// Changes one byte, number or flag of a line, whichever part it is in. Returns its place.
pub fn flip(line: &mut Value, random: &mut fastrand::Rng) -> String {
    let mut places = Vec::new();
    find_places(line, String::new(), &mut places);
    let place = places.swap_remove(random.usize(..places.len()));
    let part = line.pointer_mut(&place).unwrap();
    *part = flipped(part, place.ends_with("/database"), random);
    place
}

fn find_places(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter().filter(|(name, _)| *name != "kind") {
                find_places(field, format!("{place}/{name}"), places);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_places(item, format!("{place}/{index}"), places);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => places.push(place),
    }
}

fn flipped(part: &Value, is_name: bool, random: &mut fastrand::Rng) -> Value {
    match part {
        Value::Null => Value::from(1),
        Value::Bool(is) => Value::from(!is),
        Value::Number(number) => {
            let bit = 1_u8 << random.u8(..8);
            match number.as_u64() {
                Some(number) => Value::from(number ^ u64::from(bit)),
                None => Value::from(number.as_i64().unwrap() ^ i64::from(bit)),
            }
        }
        Value::String(text) if text.is_empty() => Value::from("00"),
        Value::String(text) if is_name => {
            let mut name = text.clone().into_bytes();
            let index = random.usize(..name.len());
            name[index] ^= 1;
            Value::from(String::from_utf8(name).unwrap())
        }
        Value::String(text) => {
            let mut bytes = hex::decode(text).unwrap();
            let index = random.usize(..bytes.len());
            bytes[index] ^= random.u8(1..);
            Value::from(hex::encode(bytes))
        }
        Value::Array(_) | Value::Object(_) => panic!("{part} has parts"),
    }
}
