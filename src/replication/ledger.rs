//! The ledger: judges what ImmuDB returns against the history that this process computes itself. It
//! performs no I/O.
//!
//! It has the chain of ImmuDB's transactions up to the last one that was verified, and what this
//! process has sent without learning the outcome. Headers are judged in the order of their numbers.

use std::collections::VecDeque;

use crate::immudb::{
    Sha256Hash, TxHeader, TxId,
    verify::{Chain, HeaderMismatch, ProofMismatch, SentEntries, TrustedState},
};

/// What the header that ImmuDB returned for a transaction of this process says about the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the next transaction, with the entries that were sent.
    Expected,
    /// Transactions of others come before it, and have to be read first.
    Foreign { from: TxId, to: TxId },
    /// It does not continue the history, or has other entries.
    Wrong(HeaderMismatch),
}

/// Who has sent a transaction that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// This process.
    This,
    /// An earlier process of this service, or another client.
    Unknown,
}

/// Why what was read is not the history up to the trusted state and behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    #[error(transparent)]
    Header(#[from] HeaderMismatch),
    #[error(
        "transaction {tx}: expected the hash {}, found {}",
        hex::encode(.expected),
        hex::encode(.found)
    )]
    OtherHash { tx: TxId, expected: Sha256Hash, found: Sha256Hash },
    #[error("the history ends before transaction {expected}")]
    Missing { expected: TxId },
    #[error("transaction {tx}: {error}")]
    Proof { tx: TxId, error: ProofMismatch },
}

impl Contradiction {
    /// Checks that a state is the expected one of the same transaction.
    pub(crate) fn check(expected: TrustedState, found: TrustedState) -> Result<(), Self> {
        if expected.tx > found.tx {
            return Err(Self::Missing { expected: expected.tx });
        }
        if expected != found {
            return Err(Self::OtherHash { tx: found.tx, expected: expected.alh, found: found.alh });
        }
        Ok(())
    }

    /// A header that no transaction can have.
    pub(crate) fn of_version(header: &TxHeader) -> Self {
        Self::Header(HeaderMismatch::Version { tx: header.id, found: header.version })
    }

    /// Returns the transaction that it is about.
    pub(crate) fn transaction(&self) -> TxId {
        match self {
            Self::Header(
                HeaderMismatch::Id { found: tx, .. }
                | HeaderMismatch::EntryCount { tx, .. }
                | HeaderMismatch::EntriesHash { tx, .. }
                | HeaderMismatch::PreviousHash { tx, .. }
                | HeaderMismatch::TreeTx { tx, .. }
                | HeaderMismatch::TreeRoot { tx, .. }
                | HeaderMismatch::Version { tx, .. }
                | HeaderMismatch::Truncated { tx, .. },
            )
            | Self::OtherHash { tx, .. }
            | Self::Missing { expected: tx }
            | Self::Proof { tx, .. } => *tx,
        }
    }

    /// Returns what was expected, and what was found.
    pub(crate) fn sides(&self) -> (String, String) {
        match self {
            Self::Header(mismatch) => ("the next transaction of the history".into(), mismatch.to_string()),
            Self::OtherHash { expected, found, .. } => (hex::encode(expected), hex::encode(found)),
            Self::Missing { .. } => ("this transaction".into(), "the history ends before it".into()),
            Self::Proof { error, .. } => ("a proof that it is in the history".into(), error.to_string()),
        }
    }
}

/// A transaction without an answer.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    sent: SentEntries,
    /// A transaction of this process was committed after it was sent.
    outlived: bool,
}

/// The history as this process knows it.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    chain: Chain,
    /// A state after the chain's, which the log vouches for.
    milestone: Option<TrustedState>,
    /// The chain before the last receipt, and what was sent. The time in a receipt is only verified
    /// by what follows it.
    before: Option<(Chain, SentEntries)>,
    /// A receipt that was taken back: its state, and what was sent.
    taken_back: Option<(TrustedState, SentEntries)>,
    /// The hashes of the last transactions of the chain, the newest last.
    recent: VecDeque<Sha256Hash>,
    /// What was sent, and may have been committed, in the order of sending.
    unanswered: VecDeque<Unanswered>,
    /// Some of it was dropped. It can be committed until this process has committed this number of
    /// transactions.
    forgot: u8,
    /// A transaction of this process is part of the chain. So those of earlier processes can no
    /// longer be committed.
    wrote: bool,
}

impl Ledger {
    /// The number of transactions whose hashes are kept.
    const RECENT_MAX: usize = 4096;
    /// The number of transactions without an answer that are kept. Each retry adds one until a
    /// commit is known.
    const UNANSWERED_MAX: usize = 4096;
    /// The number of further transactions of this process after which none that was sent before
    /// can be committed any more. The head then has a number that no condition of theirs allows,
    /// not even that of the second of two in flight: it allows the number that was expected for the
    /// first, and another transaction may have got that one.
    const OUTLIVED_AFTER: u8 = 2;

    /// Continues a history that was verified before. `milestone` is a later state of it.
    pub(super) fn new(chain: Chain, milestone: Option<TrustedState>) -> Self {
        let state = chain.state();
        let milestone = milestone.filter(|milestone| milestone.tx > state.tx);
        Self {
            chain,
            milestone,
            before: None,
            taken_back: None,
            recent: VecDeque::from([state.alh]),
            unanswered: VecDeque::new(),
            forgot: 0,
            wrote: false,
        }
    }

    /// Returns the last transaction that was verified.
    pub(super) fn state(&self) -> TrustedState {
        self.chain.state()
    }

    /// Returns the state that the log vouches for, if so many transactions come before it that they
    /// are not read.
    pub(super) fn far_milestone(&self) -> Option<TrustedState> {
        const READ_MAX: u64 = 20_000;
        let last = self.chain.state().tx.0;
        self.milestone.filter(|milestone| milestone.tx.0.saturating_sub(last) > READ_MAX)
    }

    /// Returns the newest trusted state. The headers up to it may still have to be read.
    pub(super) fn newest(&self) -> TrustedState {
        let taken_back = self.taken_back.map(|(state, _)| state);
        self.milestone.or(taken_back).unwrap_or(self.chain.state())
    }

    /// Returns the history without the last receipt, unless something has followed it.
    pub(super) fn settled(&self) -> &Chain {
        self.before.as_ref().map_or(&self.chain, |(chain, _)| chain)
    }

    /// Returns whether every transaction of this service that can still be read was sent by this
    /// process, and would be recognized.
    pub(super) fn knows_all_senders(&self) -> bool {
        self.wrote && self.forgot == 0
    }

    /// Returns the hash of one of the last transactions.
    pub(super) fn hash_of(&self, tx: TxId) -> Option<Sha256Hash> {
        let back = self.chain.state().tx.0.checked_sub(tx.0)?;
        let place = self.recent.len().checked_sub(1)?.checked_sub(usize::try_from(back).ok()?)?;
        self.recent.get(place).copied()
    }

    /// Judges the header that was returned for a transaction of this process. If the transaction is
    /// the next one, it becomes part of the history.
    pub(super) fn judge(&mut self, header: &TxHeader, sent: &SentEntries) -> Verdict {
        let next = self.chain.state().tx.next();
        if header.id > next {
            return Verdict::Foreign { from: next, to: TxId(header.id.0.saturating_sub(1)) };
        }
        let before = self.chain.clone();
        if let Err(mismatch) = self.chain.append(header, Some(sent)) {
            return Verdict::Wrong(mismatch);
        }
        self.before = Some((before, *sent));
        self.appended();
        self.committed(self.unanswered.len());
        Verdict::Expected
    }

    /// Records a transaction that was sent, and whose outcome is not known.
    pub(super) fn unanswered(&mut self, sent: SentEntries) {
        self.unanswered.push_back(Unanswered { sent, outlived: false });
        if self.unanswered.len() > Self::UNANSWERED_MAX {
            self.unanswered.pop_front();
            self.forgot = Self::OUTLIVED_AFTER;
        }
    }

    /// Forgets what can no longer be committed, now that a transaction was committed that this
    /// process has sent after the first `before` of those without an answer.
    fn committed(&mut self, before: usize) {
        let mut place = 0usize;
        self.unanswered.retain_mut(|unanswered| {
            let is_earlier = place < before;
            place = place.saturating_add(1);
            !(is_earlier && std::mem::replace(&mut unanswered.outlived, true))
        });
        self.wrote = true;
        self.forgot = self.forgot.saturating_sub(1);
    }

    /// Records that ImmuDB's state is that of the ledger.
    pub(super) fn settle(&mut self) {
        self.before = None;
    }

    /// Takes the last receipt back, unless something has followed it: its time may be wrong. The
    /// transaction is then read.
    pub(super) fn take_back(&mut self) {
        let Some((before, sent)) = self.before.take() else { return };
        self.taken_back = Some((self.chain.state(), sent));
        self.chain = before;
        self.recent.pop_back();
        if self.recent.is_empty() {
            self.recent.push_back(self.chain.state().alh);
        }
        // Nothing was sent before it that could still be committed.
        self.unanswered.push_front(Unanswered { sent, outlived: false });
    }

    /// Takes the header of the next transaction, which was read, into the history. Returns who has
    /// sent it. After an error, the ledger must not be used any more.
    ///
    /// # Errors
    /// Returns an error if it is not the next transaction, or another one than before.
    pub(super) fn read(&mut self, header: &TxHeader) -> Result<Author, Contradiction> {
        self.chain.append(header, None)?;
        self.before = None;
        self.appended();
        let state = self.chain.state();
        if let Some(milestone) = self.milestone.take_if(|milestone| milestone.tx <= state.tx) {
            Contradiction::check(milestone, state)?;
        }
        let is_it = |sent: &SentEntries| (sent.count, sent.hash) == (header.entry_count, header.entries_hash);
        if let Some((before, sent)) = self.taken_back.take_if(|(before, _)| before.tx <= state.tx)
            && !is_it(&sent)
        {
            return Err(Contradiction::OtherHash { tx: state.tx, expected: before.alh, found: state.alh });
        }
        let place = self.unanswered.iter().position(|unanswered| is_it(&unanswered.sent));
        let Some(place) = place else { return Ok(Author::Unknown) };
        self.unanswered.remove(place);
        self.committed(place);
        Ok(Author::This)
    }

    fn appended(&mut self) {
        self.recent.push_back(self.chain.state().alh);
        if self.recent.len() > Self::RECENT_MAX {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
