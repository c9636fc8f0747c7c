//! The whole history, page by page.
//!
//! ImmuDB limits a page by the number of transactions, not by their bytes, and transactions differ
//! by a factor of many thousands. So the limit is found on the way: halved when an answer was too
//! large, doubled when it was small.

use super::{Error, ErrorKind, Session, Transaction, TxId};

const LIMIT_FIRST: u32 = 32;

/// Walks over all transactions once. To follow new ones, go on with another from
/// [`TransactionPages::position`].
#[derive(Debug, Clone)]
pub struct TransactionPages {
    next: TxId,
    limit: u32,
}

impl TransactionPages {
    /// No page has more transactions. Where small ones are followed by large ones, the server gathers the
    /// whole page in memory before it turns out too large.
    pub const LIMIT_MAX: u32 = 64;

    pub fn from(first: TxId) -> TransactionPages {
        TransactionPages { next: first, limit: LIMIT_FIRST }
    }

    /// The same for few transactions that may be large: a page too many would keep the others waiting.
    pub fn one_by_one_from(first: TxId) -> TransactionPages {
        TransactionPages { next: first, limit: 1 }
    }

    /// The transaction that the next page begins with.
    pub fn position(&self) -> TxId {
        self.next
    }

    /// The next page; an empty one after the last transaction. After an error the same page can be
    /// asked for again, with another session if need be.
    pub async fn next(&mut self, session: &Session) -> Result<Vec<Transaction>, Error> {
        loop {
            match session.scan_transactions(self.next, self.limit).await {
                Err(error) if error.kind == ErrorKind::TooLarge && self.limit > 1 => {
                    self.limit /= 2;
                }
                Err(error) => return Err(error),
                Ok(page) => {
                    self.advance(&page)?;
                    self.limit = grown(self.limit, &page, session.response_bytes_max());
                    return Ok(page);
                }
            }
        }
    }

    /// Holds ImmuDB to its promise of transactions without a gap: a hole would be lost history.
    pub(super) fn advance(&mut self, page: &[Transaction]) -> Result<(), Error> {
        let mut next = self.next;
        for transaction in page {
            if transaction.header.id != next {
                let text = format!("transaction {} in the place of {next}", transaction.header.id);
                return Err(Error::corrupted("TxScan", text));
            }
            next = next.next();
        }
        self.next = next;
        Ok(())
    }
}

/// Doubles after a page that could have been four times as large.
fn grown(limit: u32, page: &[Transaction], bytes_max: usize) -> u32 {
    let bytes: usize = page
        .iter()
        .flat_map(|transaction| &transaction.entries)
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes < bytes_max / 4 { (limit * 2).min(TransactionPages::LIMIT_MAX) } else { limit }
}
