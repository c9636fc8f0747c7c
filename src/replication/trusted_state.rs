//! The trusted state: the last transaction up to which the history in ImmuDB was verified, with its
//! hash and with the right edge of ImmuDB's tree.
//!
//! The replication marks in the log have the transaction and the hash. The file next to the log
//! also has the edge. It belongs to one database. A new log takes over that of the log that was in
//! its place before: to lose a log must not make ImmuDB's history trusted once more. Only an
//! operator moves it backwards.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    head::{TreeHead, VerifiedTree},
    ledger::Contradiction,
};
use crate::{
    crash_point::CrashPoint,
    durable_file,
    event::{Position, record::ReplicationMark},
    immudb::{
        self, Session, Sha256Hash, TxId,
        verify::{Chain, TrustedState},
    },
};

/// The extension of the file, next to the directory of the log.
pub(crate) const EXTENSION: &str = "trusted";

/// What is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedState {
    /// The uuid of the server that had this history.
    pub server: String,
    pub chain: Chain,
    /// The newest tree over the log's events whose head is in a transaction of this history.
    pub tree: Option<VerifiedTree>,
}

/// The file of one log and one database.
#[derive(Debug, Clone)]
pub(crate) struct TrustedFile {
    path: PathBuf,
    database: String,
    /// The id of the log. Empty if it has none.
    log: String,
}

/// Why there is no saved state, although there is a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustedFileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    #[error("the file belongs to database {database} and log {log}")]
    Other { database: String, log: String },
}

/// The file: one JSON document, which an operator can read.
#[derive(Serialize, Deserialize)]
struct Document<'d> {
    /// CRC-32C of the text of `state`. A flipped bit in a hash must not look like another history.
    crc32c: u32,
    #[serde(borrow)]
    state: &'d RawValue,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    server: String,
    database: String,
    log: String,
    transaction: u64,
    hash: String,
    /// The roots of the complete subtrees, the largest first.
    edge: Vec<String>,
    /// The transaction whose `log:head` has the tree. Files of earlier versions have neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree_transaction: Option<u64>,
    #[serde(flatten)]
    tree: Option<TreeHead>,
}

impl TrustedFile {
    /// Names the file next to the directory of the log.
    pub(crate) fn new(log_path: &Path, log: String, database: String) -> Self {
        Self { path: durable_file::beside_log(log_path, EXTENSION), database, log }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the saved state, or `None` if there is no file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is damaged, or belongs to another log or
    /// another database.
    pub(crate) fn load(&self) -> Result<Option<SavedState>, TrustedFileError> {
        let Some((saved, log)) = self.read()? else { return Ok(None) };
        if log != self.log {
            return Err(TrustedFileError::Other { database: self.database.clone(), log });
        }
        Ok(Some(saved))
    }

    /// Returns the saved state that counts for a log whose last mark is `mark`, and whether it is
    /// that of a former log: before a log has a mark, it takes over that one.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub(crate) fn load_for(
        &self,
        mark: &ReplicationMark,
    ) -> Result<Option<(SavedState, bool)>, TrustedFileError> {
        let Some((saved, log)) = self.read()? else { return Ok(None) };
        let is_new = mark.position == Position(0) && mark.immudb_tx == 0 && mark.immudb_hash.is_none();
        if log == self.log {
            return Ok(Some((saved, false)));
        }
        if is_new {
            // The tree is one over the events of that log.
            return Ok(Some((SavedState { tree: None, ..saved }, true)));
        }
        Err(TrustedFileError::Other { database: self.database.clone(), log })
    }

    /// Returns the saved state of the database, and the id of the log that it belongs to.
    fn read(&self) -> Result<Option<(SavedState, String)>, TrustedFileError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Contents { server, database, log, transaction, hash, edge, tree_transaction, tree } =
            parse(&bytes)?;
        if database != self.database {
            return Err(TrustedFileError::Other { database, log });
        }
        let not_hex = TrustedFileError::Damaged("it has an invalid hash");
        let state = TrustedState { tx: TxId(transaction), alh: from_hex(&hash).ok_or(not_hex)? };
        let edge: Option<Vec<Sha256Hash>> = edge.iter().map(|hash| from_hex(hash)).collect();
        let chain = edge.and_then(|edge| Chain::from_parts(state, edge));
        let chain = chain.ok_or(TrustedFileError::Damaged("its edge does not fit its transaction"))?;
        let tree = tree.zip(tree_transaction).map(|(head, tx)| VerifiedTree { head, tx: TxId(tx) });
        let tree = tree.filter(|tree| tree.tx <= state.tx);
        Ok(Some((SavedState { server, chain, tree }, log)))
    }

    /// Saves the state durably, unless the file has a later one already.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn store(&self, saved: &SavedState) -> io::Result<()> {
        match self.load() {
            Ok(Some(kept)) if kept.chain.state().tx > saved.chain.state().tx => Ok(()),
            Ok(_) | Err(_) => self.replace(saved),
        }
    }

    /// Saves the state durably, even if the file has a later one: an operator has decided so.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn replace(&self, saved: &SavedState) -> io::Result<()> {
        let SavedState { server, chain, tree } = saved;
        let state = chain.state();
        let contents = Contents {
            server: server.clone(),
            database: self.database.clone(),
            log: self.log.clone(),
            transaction: state.tx.0,
            hash: hex::encode(state.alh),
            edge: chain.edge_hashes().iter().map(hex::encode).collect(),
            tree_transaction: tree.map(|tree| tree.tx.0),
            tree: tree.map(|tree| tree.head),
        };
        let text = RawValue::from_string(serde_json::to_string(&contents)?)?;
        let document = Document { crc32c: crc32c::crc32c(text.get().as_bytes()), state: &text };
        let mut bytes = serde_json::to_vec(&document)?;
        bytes.push(b'\n');
        durable_file::replace(&self.path, &bytes)?;
        CrashPoint::TrustedStateSaved.reached();
        Ok(())
    }
}

/// Why ImmuDB does not have the history up to a state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
}

/// Returns the history up to a trusted state. The right edge of the tree comes from ImmuDB, with a
/// proof that is as trustworthy as the state.
///
/// # Errors
/// Returns an error if ImmuDB cannot be read, or if it does not have this state.
pub(crate) async fn fetch_chain(session: &Session, state: TrustedState) -> Result<Chain, FetchError> {
    let tx = state.tx;
    if tx == TxId(0) {
        Contradiction::check(TrustedState::empty(), state)?;
        return Ok(Chain::empty());
    }
    let found = session.verifiable_tx(tx, tx).await?;
    let chain = found.chain().map_err(|error| Contradiction::Proof { tx, error })?;
    Contradiction::check(state, chain.state())?;
    Ok(chain)
}

fn parse(bytes: &[u8]) -> Result<Contents, TrustedFileError> {
    let no_json = |_| TrustedFileError::Damaged("it is not a JSON document of the expected form");
    let document: Document<'_> = serde_json::from_slice(bytes).map_err(no_json)?;
    if crc32c::crc32c(document.state.get().as_bytes()) != document.crc32c {
        return Err(TrustedFileError::Damaged("it has a wrong checksum"));
    }
    serde_json::from_str(document.state.get()).map_err(no_json)
}

fn from_hex(text: &str) -> Option<Sha256Hash> {
    hex::decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::leaf_hash;

    fn file(folder: &Path) -> TrustedFile {
        TrustedFile::new(&folder.join("log"), "the log".into(), "aethyr".into())
    }

    /// A history of three transactions.
    fn saved() -> SavedState {
        let state = TrustedState { tx: TxId(3), alh: [7; 32] };
        let chain = Chain::from_parts(state, vec![[1; 32], leaf_hash(&state.alh)]).unwrap();
        SavedState { server: "uuid".into(), chain, tree: None }
    }

    fn tree(size: u64, tx: u64) -> Option<VerifiedTree> {
        Some(VerifiedTree { head: TreeHead { size, root: [9; 32] }, tx: TxId(tx) })
    }

    #[test]
    fn a_state_comes_back_as_it_was_for_its_own_log_and_database_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        assert_eq!(file.load().unwrap(), None);
        let empty = SavedState { server: String::new(), chain: Chain::empty(), tree: None };
        let with_tree = SavedState { tree: tree(7, 2), ..saved() };
        for saved in [empty, saved(), with_tree] {
            file.store(&saved).unwrap();
            assert_eq!(file.load().unwrap(), Some(saved));
        }
        let of_another = |log: &str, database: &str| {
            let other = TrustedFile::new(&dir.path().join("log"), log.into(), database.into());
            matches!(other.load(), Err(TrustedFileError::Other { .. }))
        };
        assert!(of_another("another log", "aethyr") && of_another("the log", "another"));
    }

    #[test]
    fn a_log_without_a_mark_takes_over_the_state_of_the_log_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let former = file(dir.path());
        former.store(&SavedState { tree: tree(7, 2), ..saved() }).unwrap();
        let new_of =
            |database: &str| TrustedFile::new(&dir.path().join("log"), "new".into(), database.into());
        let (new, start) = (new_of("aethyr"), ReplicationMark::default());
        assert_eq!(new.load_for(&start).unwrap(), Some((saved(), true)), "without the tree of its events");
        let marked = ReplicationMark { immudb_tx: 2, immudb_hash: Some([1; 32]), ..start };
        assert!(matches!(new.load_for(&marked), Err(TrustedFileError::Other { .. })), "its mark counts");
        assert!(matches!(new_of("another").load_for(&start), Err(TrustedFileError::Other { .. })));
        let own = SavedState { tree: tree(7, 2), ..saved() };
        assert_eq!(former.load_for(&marked).unwrap(), Some((own, false)));
        // Then the file is its own.
        new.replace(&saved()).unwrap();
        assert_eq!(new.load_for(&marked).unwrap(), Some((saved(), false)));
    }

    #[test]
    fn it_moves_forward_only_unless_an_operator_has_decided() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        file.store(&saved()).unwrap();
        let earlier = SavedState { server: "uuid".into(), chain: Chain::empty(), tree: None };
        file.store(&earlier).unwrap();
        assert_eq!(file.load().unwrap(), Some(saved()));
        file.replace(&earlier).unwrap();
        assert_eq!(file.load().unwrap(), Some(earlier));
    }

    #[test]
    fn a_file_of_an_earlier_version_has_no_tree_and_a_tree_is_of_this_history() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        file.store(&saved()).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains("tree"), "{text}");
        assert_eq!(file.load().unwrap(), Some(saved()));
        // Its transaction is behind the state.
        file.store(&SavedState { tree: tree(7, 4), ..saved() }).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.contains(r#""tree_transaction":4,"tree_size":7,"tree_root":"0909"#), "{text}");
        assert_eq!(file.load().unwrap(), Some(saved()));
    }

    #[test]
    fn no_damage_is_taken_for_another_state() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        let saved = || SavedState { tree: tree(7, 2), ..saved() };
        file.store(&saved()).unwrap();
        let whole = fs::read(file.path()).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(file.path(), &damaged).unwrap();
            let found = file.load();
            // Only white space may change without a consequence.
            assert!(found.is_err() || matches!(&found, Ok(Some(same)) if *same == saved()), "byte {at}");
            fs::write(file.path(), &whole[..at]).unwrap();
            let found = file.load();
            assert!(found.is_err() || at == whole.len() - 1, "the first {at} bytes");
        }
        // A later save replaces a damaged file.
        fs::write(file.path(), "{").unwrap();
        file.store(&saved()).unwrap();
        assert_eq!(file.load().unwrap(), Some(saved()));
    }
}
