//! Merges several consecutive files of the index into one.
//!
//! It only computes the summary and the entries of the new file. Which files are merged, and when,
//! is decided by `upkeep`.

use std::sync::Arc;

use itertools::Itertools;

use super::{
    entry::{Entry, EventRun, take_transaction},
    table::{Summary, Table, TableWriteError},
};

/// Returns the summary of a file that covers what these files cover, from the oldest to the newest.
/// Returns `None` if there are no files.
pub(super) fn summary(tables: &[Arc<Table>]) -> Option<Summary> {
    let (first, last) = (&tables.first()?.summary, &tables.last()?.summary);
    let ([first_salt, _], [_, last_salt]) = (first.salts, last.salts);
    Some(Summary {
        from: first.from,
        after: first.after,
        salts: [first_salt, last_salt],
        events: tables.iter().map(|table| table.summary.events).sum(),
        transactions_lost: tables.iter().filter_map(|table| table.summary.transactions_lost).min(),
        ..last.clone()
    })
}

/// Returns the entries of these files, sorted by key, without transactions that a newer file knows
/// to be lost. Ends early, with an error, once `is_ended` returns true.
#[expect(clippy::result_large_err, reason = "`coalesce` gives back what it was given")]
pub(super) fn entries(
    tables: &[Arc<Table>],
    is_ended: &impl Fn() -> bool,
) -> impl Iterator<Item = Result<Entry, TableWriteError>> {
    let inputs = tables.iter().enumerate().map(move |(number, table)| {
        let newer = tables.iter().skip(number.saturating_add(1));
        let lost = newer.filter_map(|table| table.summary.transactions_lost).min();
        let is_lost = move |entry: &Entry| {
            lost.is_some_and(|lost| take_transaction(entry).is_some_and(|(last, _)| last > lost))
        };
        let kept = table.all().filter(move |entry| !entry.as_ref().is_ok_and(&is_lost));
        kept.map(move |entry| {
            if is_ended() { Err(TableWriteError::Ended) } else { Ok(entry.map(|entry| (entry, number))?) }
        })
    });
    let in_order = inputs.kmerge_by(|one, other| match (one, other) {
        (Ok((one, number)), Ok((other, other_number))) => (&one.key, number) < (&other.key, other_number),
        (one, _) => one.is_err(),
    });
    in_order.map_ok(|(entry, _)| entry).coalesce(|one, next| match (&one, &next) {
        (Ok(former), Ok(latter)) => EventRun::join(former, latter).map(Ok).ok_or((one, next)),
        _ => Err((one, next)),
    })
}
