//! Reads the transactions between the verified history and a later one: those of other clients,
//! those whose answers were lost, and those of an earlier process.

use super::{Forwarder, trust::TrustError};
use crate::{
    immudb::{Session, TransactionKeys, TxId},
    replication::{
        examination::{Examiner, Heads, Report},
        ledger::{Author, Contradiction, Ledger},
        past_state::PAGE,
        tampering::Evidence,
    },
};

impl Forwarder {
    /// Reads the transactions behind the verified history up to `to`, checks their headers, and
    /// examines those of others. Returns the history with them, for the caller to compare with what
    /// follows. The ledger itself is not changed yet.
    pub(super) async fn read_up_to(
        &mut self,
        session: &Session,
        to: TxId,
        heads: Heads,
    ) -> Result<(Ledger, Report), TrustError> {
        /// A start that takes longer than this number of pages must not keep clients waiting.
        const PAGES_MANY: u32 = 16;
        let Some(mut ledger) = self.trust.ledger.clone() else { return Err(TrustError::HeadChanged) };
        // An earlier process has examined what comes before this.
        let examined = ledger.newest().tx;
        let (history, known) = (self.history.clone(), self.replication.view().forwarded.position);
        let knows_senders = ledger.knows_all_senders();
        let mut examiner = Examiner::new(&history, heads, known)
            .knowing_senders(knows_senders)
            .knowing_checkpoints(self.checkpoints.digests());
        let mut pages = 0u32;
        while ledger.state().tx < to {
            let first = ledger.state().tx.next();
            let left = to.0.saturating_sub(ledger.state().tx.0);
            let limit = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE);
            let page = self.unless_overdue(session.scan_headers(first, limit)).await?;
            if page.is_empty() {
                return Err(Contradiction::Missing { expected: first }.into());
            }
            let read;
            (ledger, read) = self.unless_overdue(read_page(ledger, page, to)).await?;
            for (transaction, author) in &read {
                if *author == Author::Unknown && transaction.header.id > examined {
                    examiner.examine(transaction)?;
                }
            }
            pages = pages.saturating_add(1);
            if pages == PAGES_MANY && heads == Heads::Local && self.trust.owns_head {
                // The local log has everything up to the head, so it can be served meanwhile.
                self.in_contact = false;
            }
        }
        let report = examiner.report();
        if !report.tampered.is_empty() && !report.head_changed {
            return Err(Evidence::of_keys(report.tampered).into());
        }
        Ok((ledger, report))
    }
}

/// Takes a page into the history, up to the transaction `to`. Returns the transactions with their
/// authors. The entries are hashed on another thread: there may be many.
async fn read_page(
    mut ledger: Ledger,
    page: Vec<TransactionKeys>,
    to: TxId,
) -> Result<(Ledger, Vec<(TransactionKeys, Author)>), Contradiction> {
    let read = tokio::task::spawn_blocking(move || {
        let mut read = Vec::with_capacity(page.len());
        for transaction in page.into_iter().filter(|transaction| transaction.header.id <= to) {
            let author = ledger.read(&transaction.header)?;
            transaction.check()?;
            read.push((transaction, author));
        }
        Ok::<_, Contradiction>((ledger, read))
    });
    match read.await {
        Ok(read) => read,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        },
    }
}
