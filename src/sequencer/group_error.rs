//! Why a whole group failed, and the error that its callers get.

use std::io::ErrorKind;

use super::settings::Settings;
use crate::{
    error::{FailedPrecondition, StoreError, Unavailable},
    log::WriteError,
};

/// Why a whole group failed. Cheap to clone, because each call of the group gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GroupError {
    /// The log cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Frames of the group cannot be made findable, so nothing of it was written.
    #[error("cannot read the index while assembling a group; nothing of it was written")]
    Broken,
}

impl GroupError {
    pub(super) fn for_caller(&self, settings: &Settings) -> StoreError {
        match self {
            Self::Write(WriteError::NotWritten(error)) => match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => settings.disk_full(),
                _ => StoreError::Unavailable(Unavailable::NotWritten),
            },
            Self::Write(WriteError::Unknown(_)) => StoreError::OutcomeUnknown,
            Self::Broken => StoreError::Unavailable(Unavailable::NotWritten),
            Self::Write(WriteError::Failed) => FailedPrecondition::LocalLogFailed.into(),
        }
    }
}
