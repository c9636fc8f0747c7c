//! The files that exist, as far as the thread knows. Reading and writing them is left to
//! `writer`.

use std::collections::{HashMap, VecDeque};

use super::progress::Progress;
use crate::event::{AggregateId, Position, SequenceNumber, record::ReplicationMark};

/// The file of an event. Ordered by position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EventFile {
    pub position: Position,
    pub aggregate: AggregateId,
    pub sequence: SequenceNumber,
}

/// A file that exists.
#[derive(Debug)]
pub(super) enum KnownFile {
    Event(EventFile),
    Snapshot { aggregate: AggregateId, number: u64 },
}

impl KnownFile {
    /// Returns whether ImmuDB has the contents of the file.
    pub(super) fn is_over(&self, forwarded: ReplicationMark) -> bool {
        match self {
            Self::Event(file) => file.position <= forwarded.position,
            Self::Snapshot { number, .. } => *number <= forwarded.snapshots,
        }
    }

    fn event(&self) -> Option<&EventFile> {
        match self {
            Self::Event(file) => Some(file),
            Self::Snapshot { .. } => None,
        }
    }

    /// Returns the aggregate and the number of a snapshot.
    fn snapshot(&self) -> Option<(&AggregateId, u64)> {
        match self {
            Self::Event(_) => None,
            Self::Snapshot { aggregate, number } => Some((aggregate, *number)),
        }
    }
}

/// All files that are known. At the start, none are.
#[derive(Debug, Default)]
pub(super) struct KnownFiles {
    /// Every event up to this position has a file, or ImmuDB has it.
    written_to: Position,
    /// In log order.
    written: VecDeque<KnownFile>,
    /// Event files after a gap left by a crash, by position, until the gap is closed.
    behind: VecDeque<EventFile>,
    /// The newest file of each aggregate. Its removal also removes the aggregate's directory.
    newest_of: HashMap<AggregateId, SequenceNumber>,
}

impl KnownFiles {
    pub(super) fn written_to(&self) -> Position {
        self.written_to
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.written.is_empty() && self.behind.is_empty() && self.newest_of.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.written.len().saturating_add(self.behind.len()) as u64
    }

    /// Returns the progress up to now, with ImmuDB at `forwarded`. Snapshots up to the number
    /// `snapshots_seen` have been examined.
    pub(super) fn progress(&self, forwarded: ReplicationMark, snapshots_seen: u64) -> Progress {
        let first = self.written.iter().find_map(KnownFile::event);
        let over = self.written.iter().take_while(|file| file.is_over(forwarded));
        Progress {
            cleared_to: first.map_or(self.written_to, |file| Position(file.position.0.saturating_sub(1))),
            written_to: self.written_to,
            behind_from: self.behind.front().map(|file| file.position),
            snapshots_seen,
            snapshots_over: over.filter_map(KnownFile::snapshot).count() as u64,
            file_count: self.count(),
        }
    }

    /// Returns the first file in log order.
    pub(super) fn first(&self) -> Option<&KnownFile> {
        self.written.front()
    }

    /// Forgets the first file, which was removed.
    pub(super) fn forget_first(&mut self) {
        if let Some(KnownFile::Event(file)) = self.written.pop_front()
            && self.is_newest(&file)
        {
            self.newest_of.remove(&file.aggregate);
        }
    }

    /// Returns whether no newer event file of the aggregate is known.
    pub(super) fn is_newest(&self, file: &EventFile) -> bool {
        self.newest_of.get(&file.aggregate) == Some(&file.sequence)
    }

    /// Adds a file that was written.
    pub(super) fn add_event(&mut self, file: EventFile) {
        self.append(file);
        self.close_gap(Position(0));
    }

    /// Adds the file of a snapshot, which replaced the previous snapshot of the aggregate.
    pub(super) fn add_snapshot(&mut self, aggregate: AggregateId, number: u64) {
        self.written.retain(|file| file.snapshot().is_none_or(|(other, _)| *other != aggregate));
        self.written.push_back(KnownFile::Snapshot { aggregate, number });
    }

    /// Adds a snapshot file of an earlier run.
    pub(super) fn take_up_snapshot(&mut self, aggregate: AggregateId, number: u64) {
        self.written.push_back(KnownFile::Snapshot { aggregate, number });
    }

    pub(super) fn has_snapshot(&self, number: u64) -> bool {
        self.written.iter().filter_map(KnownFile::snapshot).any(|(_, known)| known == number)
    }

    /// Returns whether a newer snapshot has replaced the file of this one.
    pub(super) fn has_newer_snapshot(&self, aggregate: &AggregateId, number: u64) -> bool {
        let mut snapshots = self.written.iter().filter_map(KnownFile::snapshot);
        snapshots.any(|(other, newer)| other == aggregate && newer > number)
    }

    /// Takes over the event files of an earlier run, ordered by position. Only those that continue
    /// the forwarded position without a gap need not be written again. The rest wait until the gap
    /// before them is closed.
    pub(super) fn take_up(&mut self, mut waiting: VecDeque<EventFile>, forwarded: Position) {
        for file in &waiting {
            self.will_be_newest(file);
        }
        let over = waiting.partition_point(|file| file.position <= forwarded);
        self.written.extend(waiting.drain(..over).map(KnownFile::Event));
        (self.written_to, self.behind) = (forwarded, waiting);
        self.close_gap(Position(0));
    }

    /// Takes over files after a gap: those that come next, and those whose events ImmuDB has.
    pub(super) fn close_gap(&mut self, forwarded: Position) {
        while let Some(file) = self.behind.pop_front() {
            if file.position > self.written_to.next().max(forwarded) {
                self.behind.push_front(file);
                return;
            }
            // Files that were written again in the meantime are already known.
            if file.position > self.written_to {
                self.append(file);
            }
        }
    }

    fn append(&mut self, file: EventFile) {
        self.will_be_newest(&file);
        self.written_to = file.position;
        self.written.push_back(KnownFile::Event(file));
    }

    fn will_be_newest(&mut self, file: &EventFile) {
        let newest = self.newest_of.entry(file.aggregate.clone()).or_insert(file.sequence);
        *newest = file.sequence.max(*newest);
    }
}
