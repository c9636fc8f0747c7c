//! How the transactions of a round follow each other: the chain of their hashes, and ImmuDB's tree
//! over them, as far as both are known.
//!
//! A transaction that ImmuDB cannot read, or that does not fit, does not end a round. What follows
//! is linked again as well as possible, and the trusted state at the end of the round vouches for
//! everything behind the last gap.

use crate::{
    immudb::{
        Sha256Hash, TxHeader, TxId,
        verify::{Chain, HeaderMismatch, TrustedState},
    },
    merkle::leaf_hash,
    replication::ledger::Contradiction,
};

/// The transactions up to one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Links {
    /// The last transaction.
    reached: TxId,
    /// Its accumulated hash. `None` if it could not be read, or does not fit.
    alh: Option<Sha256Hash>,
    /// The same with the tree. `None` behind a gap.
    chain: Option<Chain>,
    /// The history before the last transaction, if it is known.
    before: Option<Chain>,
}

/// A transaction that does not follow the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Break {
    /// The transaction that is wrong, which may be the one before.
    pub tx: TxId,
    pub contradiction: Contradiction,
}

impl Links {
    /// Begins before the first transaction.
    pub(super) fn new() -> Self {
        let alh = Some(TrustedState::empty().alh);
        Self { reached: TxId(0), alh, chain: Some(Chain::empty()), before: None }
    }

    /// Continues where [`Links::alh`] and [`Links::edge`] were saved. Returns `None` if they do not
    /// belong together, as far as this can be seen.
    pub(super) fn from_parts(
        reached: TxId,
        alh: Option<Sha256Hash>,
        edge: Option<Vec<Sha256Hash>>,
    ) -> Option<Self> {
        let chain = match (alh, edge) {
            (Some(alh), Some(edge)) => Some(Chain::from_parts(TrustedState { tx: reached, alh }, edge)?),
            (None, Some(_)) => return None,
            (_, None) => None,
        };
        Some(Self { reached, alh, chain, before: None })
    }

    /// Returns the last transaction.
    pub(super) fn reached(&self) -> TxId {
        self.reached
    }

    /// Returns the accumulated hash of the last transaction, if it is known.
    pub(super) fn alh(&self) -> Option<Sha256Hash> {
        self.alh
    }

    /// Returns the roots of the complete subtrees of ImmuDB's tree, if they are known.
    pub(super) fn edge(&self) -> Option<&[Sha256Hash]> {
        self.chain.as_ref().map(Chain::edge_hashes)
    }

    /// Takes the header of the next transaction, whether it fits or not.
    ///
    /// # Errors
    /// Returns an error if it does not follow the one before it.
    pub(super) fn add(&mut self, header: &TxHeader) -> Result<(), Break> {
        let linked = match self.chain.take() {
            Some(chain) => self.continue_chain(chain, header),
            None => self.continue_hash(header),
        };
        self.reached = header.id;
        // The hash of a header that does not fit says nothing about the next one.
        let is_linked = linked.is_ok() || self.chain.is_some();
        self.alh = header.accumulated_hash().filter(|_| is_linked);
        linked
    }

    /// Goes past the next transaction, which cannot be read.
    pub(super) fn skip(&mut self) {
        self.before = self.chain.take();
        self.alh = None;
        self.reached = self.reached.next();
    }

    /// Checks that the last transaction has the hash of the trusted state, if it is that
    /// transaction and could be read.
    ///
    /// # Errors
    /// Returns an error if it has another hash.
    pub(super) fn check_end(&self, end: TrustedState) -> Result<(), Contradiction> {
        match self.alh.filter(|_| self.reached == end.tx) {
            Some(alh) => Contradiction::check(end, TrustedState { tx: self.reached, alh }),
            None => Ok(()),
        }
    }

    fn continue_chain(&mut self, chain: Chain, header: &TxHeader) -> Result<(), Break> {
        let mut next = chain.clone();
        let Err(mismatch) = next.append(header, None) else {
            (self.before, self.chain) = (Some(chain), Some(next));
            return Ok(());
        };
        let is_cut = matches!(mismatch, HeaderMismatch::PreviousHash { .. });
        let Some((joined, next)) = self.joined(header).filter(|_| is_cut) else {
            self.before = Some(chain);
            return Err(Break { tx: header.id, contradiction: mismatch.into() });
        };
        let tx = joined.state().tx;
        (self.before, self.chain) = (Some(joined), Some(next));
        Err(Break { tx, contradiction: mismatch.into() })
    }

    /// Continues behind a gap, where only the hash of the last transaction may be known.
    fn continue_hash(&mut self, header: &TxHeader) -> Result<(), Break> {
        if self.alh.is_none()
            && let Some((joined, next)) = self.joined(header)
        {
            (self.before, self.chain) = (Some(joined), Some(next));
            return Ok(());
        }
        self.before = None;
        let tx = header.id;
        let truncated = header.metadata.as_ref().and_then(|metadata| metadata.truncated_tx);
        let mismatch = match (self.alh, truncated) {
            (Some(expected), _) if expected != header.previous_hash => {
                HeaderMismatch::PreviousHash { tx, expected, found: header.previous_hash }
            }
            (_, Some(truncated)) => HeaderMismatch::Truncated { tx, truncated },
            _ if header.accumulated_hash().is_none() => HeaderMismatch::Version { tx, found: header.version },
            _ => return Ok(()),
        };
        Err(Break { tx, contradiction: mismatch.into() })
    }

    /// Returns the history up to the transaction before this one, and with this one. The hash of
    /// the transaction before comes from this header, whose root of the tree proves it.
    fn joined(&self, header: &TxHeader) -> Option<(Chain, Chain)> {
        let before = self.before.as_ref()?;
        let tx = before.state().tx.next();
        if tx.next() != header.id {
            return None;
        }
        let mut edge = before.edge().clone();
        edge.push(leaf_hash(&header.previous_hash));
        let joined = Chain::new(TrustedState { tx, alh: header.previous_hash }, edge)?;
        let mut next = joined.clone();
        next.append(header, None).ok()?;
        Some((joined, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::immudb::TxMetadata;

    /// A history of this number of transactions without entries.
    fn history(count: u64) -> Vec<TxHeader> {
        let mut chain = Chain::empty();
        (1..=count)
            .map(|id| {
                let header = next(&chain, id);
                chain.append(&header, None).unwrap();
                header
            })
            .collect()
    }

    fn next(chain: &Chain, id: u64) -> TxHeader {
        let last = chain.state();
        let root = if last.tx == TxId(0) { [0; 32] } else { chain.edge().root() };
        TxHeader {
            id: TxId(id),
            previous_hash: last.alh,
            timestamp_seconds: 0,
            entry_count: 1,
            entries_hash: [7; 32],
            tree_tx: last.tx,
            tree_root: root,
            version: 1,
            metadata: None,
        }
    }

    fn state(header: &TxHeader) -> TrustedState {
        TrustedState { tx: header.id, alh: header.accumulated_hash().unwrap() }
    }

    /// Adds the headers, and skips those that are missing. Returns the transactions that are wrong.
    fn walk(links: &mut Links, headers: &[Option<TxHeader>]) -> Vec<u64> {
        let mut wrong = Vec::new();
        for header in headers {
            match header {
                Some(header) => wrong.extend(links.add(header).err().map(|broken| broken.tx.0)),
                None => links.skip(),
            }
        }
        wrong
    }

    #[test]
    fn a_history_leads_to_its_state_also_from_where_it_was_saved() {
        let headers: Vec<_> = history(9).into_iter().map(Some).collect();
        for at in 0..9 {
            let mut links = Links::new();
            assert!(walk(&mut links, &headers[..at]).is_empty());
            let edge = links.edge().map(<[Sha256Hash]>::to_vec);
            let mut links = Links::from_parts(links.reached(), links.alh(), edge).unwrap();
            assert!(walk(&mut links, &headers[at..]).is_empty());
            let end = state(headers[8].as_ref().unwrap());
            assert_eq!((links.reached(), links.check_end(end)), (TxId(9), Ok(())));
            assert!(links.check_end(TrustedState { alh: [1; 32], ..end }).is_err());
            assert!(links.edge().is_some());
        }
        assert!(Links::from_parts(TxId(3), None, Some(vec![[1; 32]; 2])).is_none());
        assert!(Links::from_parts(TxId(3), Some([1; 32]), Some(vec![[1; 32]])).is_none());
    }

    #[test]
    fn one_missing_transaction_costs_nothing_and_two_cost_the_tree() {
        let headers: Vec<_> = history(9).into_iter().map(Some).collect();
        let end = state(headers[8].as_ref().unwrap());
        for at in 0..8 {
            let mut one = headers.clone();
            one[at] = None;
            let mut links = Links::new();
            assert!(walk(&mut links, &one).is_empty(), "transaction {}", at + 1);
            assert!(links.edge().is_some(), "transaction {}", at + 1);
            assert_eq!(links.check_end(end), Ok(()));
            if at < 7 {
                one[at + 1] = None;
                let mut links = Links::new();
                assert!(walk(&mut links, &one).is_empty());
                assert_eq!((links.edge(), links.check_end(end)), (None, Ok(())));
            }
        }
    }

    #[test]
    fn the_damaged_header_is_named_and_not_the_one_behind_it() {
        let headers: Vec<_> = history(9).into_iter().map(Some).collect();
        for at in 1..8 {
            let mut damaged = headers.clone();
            damaged[at].as_mut().unwrap().timestamp_seconds = 1;
            let mut links = Links::new();
            assert_eq!(walk(&mut links, &damaged), [at as u64 + 1]);
            assert!(links.edge().is_some());
            let mut cut = headers.clone();
            cut[at].as_mut().unwrap().previous_hash = [9; 32];
            let wrong = walk(&mut Links::new(), &cut);
            assert!(wrong.iter().all(|tx| *tx == at as u64 + 1) && !wrong.is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn deleted_values_show_behind_a_gap_too() {
        let mut headers: Vec<_> = history(4).into_iter().map(Some).collect();
        let truncated = Some(TxMetadata { truncated_tx: Some(TxId(2)), extra: bytes::Bytes::new() });
        headers[3].as_mut().unwrap().metadata = truncated;
        (headers[0], headers[1]) = (None, None);
        assert_eq!(walk(&mut Links::new(), &headers), [4]);
    }
}
