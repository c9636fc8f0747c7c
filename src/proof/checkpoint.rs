//! Checkpoints: the size and the root of a log's tree, as the text of a note.

use super::encoding::{self, is_control};
use crate::merkle::Hash;

/// Why a text is not a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The text does not have the three lines that are required.
    #[error("a checkpoint has one line each for the origin, the size and the root")]
    Incomplete,
    /// The origin is empty, or contains a control character.
    #[error("the origin of a checkpoint is a line that is not empty, without control characters")]
    Origin,
    /// The second line is not a number in decimal digits without leading zeros.
    #[error("the second line of a checkpoint is the size of the tree, in decimal digits")]
    Size,
    /// The third line is not the base64 of a hash.
    #[error("the third line of a checkpoint is the root of the tree, 32 bytes in base64")]
    Root,
    /// A further line is empty, or contains a control character.
    #[error("line {line} of the checkpoint is empty, or has control characters")]
    Extension {
        /// The number of the line, from 4 on.
        line: usize,
    },
}

/// The state of a log: the origin that identifies it, the number of its leaves, and the root of the
/// tree over them. It is worth something only if it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// Returns a checkpoint. The extensions are further lines with a meaning for this log only.
    pub fn new(
        origin: impl Into<String>,
        size: u64,
        root: Hash,
        extensions: Vec<String>,
    ) -> Result<Self, CheckpointError> {
        let origin = origin.into();
        if !is_line(&origin) {
            return Err(CheckpointError::Origin);
        }
        if let Some((line, _)) = (4..).zip(&extensions).find(|(_, extension)| !is_line(extension)) {
            return Err(CheckpointError::Extension { line });
        }
        Ok(Self { origin, size, root, extensions })
    }

    /// Parses the text of a note.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Incomplete)?.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(CheckpointError::Incomplete);
        };
        let size = encoding::decode_decimal(size).ok_or(CheckpointError::Size)?;
        let root = encoding::decode_hash(root).ok_or(CheckpointError::Root)?;
        Self::new(origin, size, root, lines.map(str::to_owned).collect())
    }

    /// Returns the text to sign.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, encoding::encode(&self.root));
        for extension in &self.extensions {
            text.push_str(extension);
            text.push('\n');
        }
        text
    }

    /// Returns the text that identifies the log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the root of the tree.
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// Returns the further lines.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(is_control)
}
