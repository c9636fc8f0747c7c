//! Checks that transactions that are read with their values follow each other, have the entries of
//! their headers, and lead to a trusted state. That state vouches for everything before it.

use super::ledger::Contradiction;
use crate::immudb::{
    Sha256Hash, Transaction, TxId,
    verify::{HeaderMismatch, TrustedState, entries_hash, entry_digest},
};

/// How far transactions were checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linked {
    /// The trusted state that they must lead to.
    anchor: TrustedState,
    /// The last one that was checked.
    reached: Option<TrustedState>,
}

impl Linked {
    pub(super) fn new(anchor: TrustedState) -> Self {
        Self { anchor, reached: None }
    }

    /// Checks a page on another thread. Returns it with the state after each transaction.
    ///
    /// # Errors
    /// Returns an error if a transaction does not fit.
    pub(super) async fn check(
        self,
        page: Vec<Transaction>,
    ) -> Result<(Self, Vec<(Transaction, TrustedState)>), Contradiction> {
        on_another_thread(move || {
            let mut linked = self;
            let states = page.iter().map(|transaction| linked.add(transaction));
            let states = states.collect::<Result<Vec<_>, _>>()?;
            Ok((linked, page.into_iter().zip(states).collect()))
        })
        .await
    }

    /// Checks that the trusted state was reached.
    ///
    /// # Errors
    /// Returns an error if there were fewer transactions.
    pub(super) fn end(&self) -> Result<(), Contradiction> {
        let reached = self.reached.map_or(TxId(0), |reached| reached.tx);
        if reached < self.anchor.tx {
            return Err(Contradiction::Missing { expected: reached.next() });
        }
        Ok(())
    }

    fn add(&mut self, transaction: &Transaction) -> Result<TrustedState, Contradiction> {
        let header = &transaction.header;
        let tx = header.id;
        let first = (tx == TxId(1)).then(TrustedState::empty);
        if let Some(before) = self.reached.or(first).filter(|before| before.alh != header.previous_hash) {
            let (expected, found) = (before.alh, header.previous_hash);
            return Err(HeaderMismatch::PreviousHash { tx, expected, found }.into());
        }
        let state = state_of(transaction)?;
        if tx == self.anchor.tx {
            Contradiction::check(self.anchor, state)?;
        }
        self.reached = Some(state);
        Ok(state)
    }
}

/// Checks on another thread that transactions have the entries of their headers, and these hashes,
/// as far as they are known. Returns the transactions.
///
/// # Errors
/// Returns an error if one has not.
pub(super) async fn check_each(
    page: Vec<Transaction>,
    hashes: Vec<Option<Sha256Hash>>,
) -> Result<Vec<Transaction>, Contradiction> {
    on_another_thread(move || {
        for (transaction, alh) in page.iter().zip(hashes) {
            if let Some(alh) = alh {
                check_one(transaction, alh)?;
            }
        }
        Ok(page)
    })
    .await
}

async fn on_another_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Checks that a transaction has the entries of its header, and this hash.
///
/// # Errors
/// Returns an error if it has not.
fn check_one(transaction: &Transaction, alh: Sha256Hash) -> Result<(), Contradiction> {
    Contradiction::check(TrustedState { tx: transaction.header.id, alh }, state_of(transaction)?)
}

/// Returns the state after a transaction, if it has the entries of its header. Entries of other
/// kinds have no values here, so they are not checked, and must not be used.
fn state_of(transaction: &Transaction) -> Result<TrustedState, Contradiction> {
    let header = &transaction.header;
    let tx = header.id;
    if transaction.foreign_entries() == 0 {
        let digests = transaction.entries.iter().map(|(key, value)| entry_digest(key, value));
        let (expected, found) = (header.entries_hash, entries_hash(digests));
        if expected != found {
            return Err(HeaderMismatch::EntriesHash { tx, expected, found }.into());
        }
    }
    let alh = header.accumulated_hash().ok_or_else(|| Contradiction::of_version(header))?;
    Ok(TrustedState { tx, alh })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::immudb::TxHeader;

    /// A history of transactions with one entry each.
    fn history(count: u64) -> Vec<(Transaction, TrustedState)> {
        let mut before = TrustedState::empty();
        let mut made = Vec::new();
        for id in 1..=count {
            let (key, value) = (Bytes::from(format!("key-{id}")), Bytes::from("value"));
            let header = TxHeader {
                id: TxId(id),
                previous_hash: before.alh,
                timestamp_seconds: 0,
                entry_count: 1,
                entries_hash: entries_hash([entry_digest(&key, &value)]),
                tree_tx: before.tx,
                tree_root: [0; 32],
                version: 1,
                metadata: None,
            };
            before = TrustedState { tx: TxId(id), alh: header.accumulated_hash().unwrap() };
            made.push((Transaction { header, entries: vec![(key, value)] }, before));
        }
        made
    }

    async fn check(
        first: usize,
        history: &[(Transaction, TrustedState)],
        anchor: TrustedState,
    ) -> Result<Vec<TrustedState>, Contradiction> {
        let (mut linked, mut states) = (Linked::new(anchor), Vec::new());
        for page in history[first..].chunks(3) {
            let page = page.iter().map(|(transaction, _)| transaction.clone()).collect();
            let (next, checked) = linked.check(page).await?;
            linked = next;
            states.extend(checked.into_iter().map(|(_, state)| state));
        }
        linked.end()?;
        Ok(states)
    }

    #[tokio::test]
    async fn a_history_leads_to_its_own_states_from_wherever_it_is_read() {
        let history = history(8);
        let states: Vec<_> = history.iter().map(|(_, state)| *state).collect();
        for first in 0..8 {
            for anchor in &states[first..] {
                assert_eq!(check(first, &history, *anchor).await.unwrap(), states[first..]);
            }
        }
        let beyond = TrustedState { tx: TxId(9), alh: [1; 32] };
        assert_eq!(check(0, &history, beyond).await, Err(Contradiction::Missing { expected: TxId(9) }));
    }

    #[tokio::test]
    async fn whatever_is_changed_before_the_trusted_state_shows() {
        let history = history(8);
        let anchor = history[6].1;
        for place in 0..7 {
            let changed = |change: &dyn Fn(&mut Transaction)| {
                let mut changed = history.clone();
                change(&mut changed[place].0);
                changed
            };
            let value = changed(&|transaction| transaction.entries[0].1 = Bytes::from("other"));
            let key = changed(&|transaction| transaction.entries[0].0 = Bytes::from("other"));
            let time = changed(&|transaction| transaction.header.timestamp_seconds = 1);
            // As if it had an entry of another kind, which cannot be checked.
            let count = changed(&|transaction| transaction.header.entry_count = 2);
            for changed in [value, key, time, count] {
                assert!(check(0, &changed, anchor).await.is_err(), "transaction {}", place + 1);
                assert!(check_one(&changed[place].0, history[place].1.alh).is_err());
            }
            assert_eq!(check_one(&history[place].0, history[place].1.alh), Ok(()));
        }
        let missing = [&history[..3], &history[4..]].concat();
        assert!(check(0, &missing, anchor).await.is_err());

        // Only those with a known hash are compared.
        let page: Vec<_> = history.iter().map(|(transaction, _)| transaction.clone()).collect();
        let right: Vec<_> = history.iter().map(|(_, state)| Some(state.alh)).collect();
        assert_eq!(check_each(page.clone(), right.clone()).await.unwrap(), page);
        let mut wrong = right;
        wrong[3] = Some([1; 32]);
        assert!(check_each(page.clone(), wrong.clone()).await.is_err());
        wrong[3] = None;
        assert!(check_each(page, wrong).await.is_ok());
    }
}
