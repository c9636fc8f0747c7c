//! Reads the whole history, page by page.
//!
//! ImmuDB limits a page by the number of transactions, not by their bytes, and transactions differ
//! in size by a factor of many thousands. So the limit adapts: it is halved after an answer that
//! was too large, and doubled after a small one.

use super::{Error, ErrorKind, Session, Transaction, TxId};

const LIMIT_FIRST: u32 = 32;

/// Iterates over all transactions once. To follow new ones, start another iteration at
/// [`TransactionPages::position`].
#[derive(Debug, Clone)]
pub struct TransactionPages {
    next: TxId,
    limit: u32,
}

impl TransactionPages {
    /// The maximum number of transactions on a page. If large transactions follow small ones, the
    /// server assembles the whole page in memory before it turns out to be too large.
    pub const LIMIT_MAX: u32 = 64;

    /// Creates an iteration that begins with the transaction `first`.
    pub fn from(first: TxId) -> TransactionPages {
        TransactionPages { next: first, limit: LIMIT_FIRST }
    }

    /// Same as [`TransactionPages::from`], for few transactions that may be large: reading more of
    /// them than necessary would keep others waiting.
    pub fn one_by_one_from(first: TxId) -> TransactionPages {
        TransactionPages { next: first, limit: 1 }
    }

    /// Returns the first transaction of the next page.
    pub fn position(&self) -> TxId {
        self.next
    }

    /// Returns the next page, which is empty after the last transaction. After an error, the same
    /// page can be requested again, over another session if necessary.
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

    /// Goes to the next page.
    pub(super) fn advance(&mut self, page: &[Transaction]) -> Result<(), Error> {
        self.next = after(self.next, page.iter().map(|transaction| transaction.header.id))?;
        Ok(())
    }
}

/// Returns the transaction after a page that begins with `first`. Checks that ImmuDB returns
/// transactions without a gap: a gap would be lost history.
pub(super) fn after(first: TxId, page: impl IntoIterator<Item = TxId>) -> Result<TxId, Error> {
    let mut next = first;
    for found in page {
        if found != next {
            let text = format!("received transaction {found} instead of {next}");
            return Err(Error::corrupted("TxScan", text));
        }
        next = next.next();
    }
    Ok(next)
}

/// Doubles the limit after a page that could have been four times as large.
fn grown(limit: u32, page: &[Transaction], bytes_max: usize) -> u32 {
    let bytes: usize = page
        .iter()
        .flat_map(|transaction| &transaction.entries)
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes < bytes_max / 4 { (limit * 2).min(TransactionPages::LIMIT_MAX) } else { limit }
}
