//! Why the tree cannot be opened or read.

use std::{io, ops::Range, path::PathBuf};

use uuid::Uuid;

use crate::merkle::{Hash, ProofError};

/// Why the file of the tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeFileError {
    /// The file is that of another log. It is left as it is.
    #[error("{file} was created from another log ({found}, not {expected})")]
    AnotherLog {
        /// The path of the file.
        file: PathBuf,
        /// The id of our log.
        expected: Uuid,
        /// The id of the log that the file belongs to.
        found: Uuid,
    },
    /// A newer version of the program has written the file. It is left as it is.
    #[error(
        "{file}: version {found} of the tree file: a newer version of the program has written it; run that \
         version, or delete the file: it is rebuilt"
    )]
    Newer {
        /// The path of the file.
        file: PathBuf,
        /// The version of its format.
        found: u32,
    },
    /// The file does not begin as a tree file does. It is left as it is.
    #[error("{file} is not a tree file")]
    NotATree {
        /// The path of the file.
        file: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{file}: {source}")]
    Io {
        /// The path of the file.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Why the tree has no answer. `E` is the error of [`Leaves`](super::Leaves).
#[derive(Debug, thiserror::Error)]
pub enum TreeError<E> {
    /// The file of the tree cannot be used.
    #[error(transparent)]
    File(#[from] TreeFileError),
    /// Leaves cannot be read.
    #[error("the leaves of the tree cannot be read: {0}")]
    Leaves(#[source] E),
    /// Another number of leaves was returned than requested.
    #[error("{found} leaves were read instead of those from {} to {}", .range.start, .range.end)]
    LeafCount {
        /// The range of the leaves, by index from 0 on.
        range: Range<u64>,
        /// The number of leaves that were read.
        found: usize,
    },
    /// The leaves do not have the node that was made from them: the log was changed.
    #[error(
        "the leaves from {} to {} have the node {}, but it was {}: the log was changed",
        .range.start,
        .range.end,
        hex::encode(.found),
        hex::encode(.expected)
    )]
    OtherLeaves {
        /// The range of the leaves, by index from 0 on.
        range: Range<u64>,
        /// The node in the file.
        expected: Hash,
        /// The node that follows from the leaves.
        found: Hash,
    },
    /// The tree is not that large yet.
    #[error("the tree has {found} leaves, not {expected}")]
    TooSmall {
        /// The requested number of leaves.
        expected: u64,
        /// The number of leaves that the tree has.
        found: u64,
    },
    /// There is no such proof, or what was read does not lead to the root of the tree.
    #[error(transparent)]
    Proof(#[from] ProofError),
}
