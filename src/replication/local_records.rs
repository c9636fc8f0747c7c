//! Finds the local record that belongs to a key in ImmuDB.
//!
//! The key of an event has the encoded aggregate id. That of a long id cannot be decoded, and is
//! found among the ids that begin alike.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::transaction;
use crate::{
    event::{AggregateId, Position, SequenceNumber, record::StoredEvent},
    history::{History, HistoryError},
};

/// A local event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalEvent {
    pub position: Position,
    pub record: Bytes,
}

/// Looks up records by their keys in ImmuDB.
#[derive(Debug)]
pub(super) struct LocalRecords<'h> {
    history: &'h History,
    /// Long ids by their encoded form, and the beginnings of all that were looked for.
    long_ids: HashMap<String, AggregateId>,
    looked_for: HashSet<String>,
}

impl<'h> LocalRecords<'h> {
    pub(super) fn new(history: &'h History) -> Self {
        Self { history, long_ids: HashMap::new(), looked_for: HashSet::new() }
    }

    /// Returns the event with this key, or `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if the index or the log cannot be read.
    pub(super) fn event(&mut self, key: &[u8]) -> Result<Option<LocalEvent>, HistoryError> {
        let Some((encoded, sequence)) = transaction::parse_event_key(key) else { return Ok(None) };
        let Some(aggregate) = self.aggregate(encoded)? else { return Ok(None) };
        let History { index, wait_mode, segments } = self.history;
        let head = index.head_with(&aggregate, *wait_mode)?;
        if sequence == SequenceNumber(0) || head.is_none_or(|head| head.last < sequence) {
            return Ok(None);
        }
        let Some(place) = index.event_numbered(&aggregate, sequence, *wait_mode)? else { return Ok(None) };
        let record = segments.read(place)?;
        let event = StoredEvent::new(record.bytes.clone(), record.hash)
            .map_err(|source| HistoryError::Record { place, source })?;
        Ok(Some(LocalEvent { position: event.position, record: record.bytes }))
    }

    /// Returns the record of the newest snapshot of the aggregate in this key, or `None` if there
    /// is none.
    ///
    /// # Errors
    /// Returns an error if the index or the log cannot be read.
    pub(super) fn snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, HistoryError> {
        let text = std::str::from_utf8(key).ok();
        let encoded = text.and_then(|text| text.strip_prefix(transaction::SNAPSHOT_PREFIX));
        let Some(encoded) = encoded else { return Ok(None) };
        let Some(aggregate) = self.aggregate(encoded)? else { return Ok(None) };
        let head = self.history.index.head_with(&aggregate, self.history.wait_mode)?;
        let Some(snapshot) = head.and_then(|head| head.snapshot) else { return Ok(None) };
        Ok(Some(self.history.segments.read(snapshot.place)?.bytes))
    }

    /// Returns the id with this encoded form.
    fn aggregate(&mut self, encoded: &str) -> Result<Option<AggregateId>, HistoryError> {
        let Some((beginning, _)) = encoded.split_once('.') else { return Ok(decoded(encoded)) };
        // Anybody may write a key. One that begins otherwise belongs to no id, and must not make
        // this look through all of them.
        if beginning.len() != AggregateId::ENCODED_PREFIX_BYTES {
            return Ok(None);
        }
        if self.looked_for.insert(beginning.to_owned()) {
            self.look_for(beginning)?;
        }
        Ok(self.long_ids.get(encoded).cloned())
    }

    /// Looks for all long ids whose encoded form begins like this.
    fn look_for(&mut self, beginning: &str) -> Result<(), HistoryError> {
        const AT_ONCE: usize = 256;
        let prefix = decoded_beginning(beginning);
        let mut after: Option<String> = None;
        loop {
            let page = self.history.index.aggregates(&prefix, after.as_deref(), AT_ONCE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.as_str().to_owned());
            let with_forms = page.into_iter().map(|(id, _)| (id.encoded(), id));
            self.long_ids.extend(with_forms.filter(|(encoded, _)| encoded.contains('.')));
        }
    }
}

/// Returns the id with this encoded form, which is not that of a long id.
fn decoded(encoded: &str) -> Option<AggregateId> {
    let text = percent_encoding::percent_decode_str(encoded).decode_utf8().ok()?;
    AggregateId::new(&text).ok().filter(|id| id.encoded() == encoded)
}

/// Returns the whole characters at the beginning of an encoded id, which may end within one.
fn decoded_beginning(encoded: &str) -> String {
    let whole = match encoded.rfind('%') {
        Some(at) if encoded.len().saturating_sub(at) < 3 => encoded.get(..at).unwrap_or_default(),
        _ => encoded,
    };
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(whole).collect();
    let valid = match std::str::from_utf8(&bytes) {
        Ok(text) => return text.to_owned(),
        Err(error) => error.valid_up_to(),
    };
    String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequencer::{
        Origin,
        tests::{in_folder, one_event, start},
    };

    #[test]
    fn a_beginning_ends_with_a_whole_character() {
        for (encoded, text) in [
            ("room", "room"),
            ("%C3%A4%C3", "ä"),
            ("%C3%A4%C", "ä"),
            ("%C3%A4%", "ä"),
            ("a%C3%A4", "aä"),
            ("%F0%9F%98", ""),
        ] {
            assert_eq!(decoded_beginning(encoded), text, "{encoded}");
        }
        assert_eq!(decoded("a%3Ab").unwrap().as_str(), "a:b");
        // Nobody but this service's own encoding is decoded.
        assert!(decoded("a%3ab").is_none() && decoded("%61").is_none() && decoded("%ff").is_none());
    }

    #[tokio::test]
    async fn each_event_is_found_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let long = "ä".repeat(120);
        let other = format!("{}b", "ä".repeat(110));
        let ids = ["room-1", "a:b/ö", &long, &other];
        for id in ids.iter().chain(&ids[..2]) {
            running.sequencer.append(one_event(id), Origin::default()).await.unwrap();
        }
        let mut records = LocalRecords::new(&running.history);
        let mut find = |id: &str, sequence| {
            let key = transaction::event_key(&AggregateId::new(id).unwrap(), SequenceNumber(sequence));
            records.event(&key).unwrap().map(|event| (event.position.0, event.record))
        };
        for (position, (id, sequence)) in
            (1..).zip(ids.iter().map(|id| (id, 1)).chain(ids[..2].iter().map(|id| (id, 2))))
        {
            let (found, record) = find(id, sequence).unwrap();
            let stored = running.history.record_at(Position(position), running.sequencer.tip()).unwrap();
            assert_eq!((found, record), (position, stored.bytes), "{id}");
        }
        for (id, sequence) in [("room-1", 3), ("room-1", 0), ("room-2", 1), (&*"ä".repeat(121), 1)] {
            assert_eq!(find(id, sequence), None, "{id} {sequence}");
        }
        let mut records = LocalRecords::new(&running.history);
        assert_eq!(records.event(b"event:room-1").unwrap(), None);
        assert_eq!(records.snapshot(b"snapshot:room-1").unwrap(), None);
        // No id is looked for by less than what each long one begins with.
        assert_eq!(records.snapshot(b"snapshot:.0").unwrap(), None);
        assert_eq!(records.snapshot(b"snapshot:room.0").unwrap(), None);
        assert!(records.looked_for.is_empty());
    }
}
