//! Why there is no checkpoint.

use std::{io, path::PathBuf, sync::Arc};

use crate::proof::{CheckpointError, KeyError, KeyId, NoteError};

/// Why no checkpoint is made now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransparencyError {
    /// The tree does not have all events yet, or has not been compared with earlier checkpoints.
    #[error("the tree over the events has {size} of {of} events")]
    TreeNotReady { size: u64, of: u64 },
    /// There is no tree until the reason is gone.
    #[error("the tree over the events cannot be used: {0}")]
    TreeFailed(String),
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// The configuration, or the storage, allows no checkpoints.
    #[error("no checkpoints are made")]
    Disabled,
    /// The checkpoint cannot be put together. Its text comes from the key and from an operator.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A checkpoint that is not kept would be forgotten at the next start.
    #[error("checkpoints cannot be kept: {0}")]
    NotKept(#[source] io::Error),
    #[error("making a checkpoint panicked")]
    Panicked,
}

/// Why nothing is signed. An operator ends it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NoKey {
    #[error("{}: {source} (proof.key_file)", path.display())]
    Unreadable { path: PathBuf, source: Arc<io::Error> },
    #[error("{}: {source} (proof.key_file)", path.display())]
    NotAKey { path: PathBuf, source: KeyError },
    #[error("{}: the key cannot be created: {source} (proof.key_file)", path.display())]
    NotCreated { path: PathBuf, source: Arc<io::Error> },
    /// Another log has the same key file.
    #[error("{}: another service signs with this key; each log has its own (proof.key_file)", path.display())]
    InUse { path: PathBuf },
    #[error("the key cannot sign for this generation of the history: {0}")]
    Key(KeyError),
    /// The key is gone, and others know it.
    #[error(
        "{}: the key that signed the earlier checkpoints is missing; restore it, or set proof.new_key to \
         create another one (proof.key_file)",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error(
        "{}: the key has the name {found:?}, but proof.origin is {configured:?}; a history keeps its name: \
         correct proof.key_file, or remove proof.origin",
        path.display()
    )]
    OtherOrigin { path: PathBuf, found: String, configured: String },
    /// Somebody else may sign for this history, or the key was replaced.
    #[error(
        "the newest checkpoint in {place} is signed by {name} (key {id}), not with the key of this service; \
         restore that key, or set proof.new_key"
    )]
    OtherKey { place: String, name: String, id: KeyId },
    /// The file with the generations decides what may be signed.
    #[error("{}: {source}", path.display())]
    Generations { path: PathBuf, source: Arc<io::Error> },
    /// To sign would be to sign two histories.
    #[error("{place} has a checkpoint of {size} events that this history does not continue")]
    Contradicted { place: String, size: u64 },
    /// There is no key because no checkpoints are made.
    #[error("no checkpoints are made")]
    Disabled,
}
