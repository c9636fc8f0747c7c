//! Why a whole group failed, as an error for each kind of caller.

use std::io::ErrorKind;

use super::{restored::RestoreError, settings::Settings};
use crate::{
    error::{FailedPrecondition, StoreError, Unavailable},
    log::WriteError,
};

/// Why a whole group failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum GroupError {
    #[error(transparent)]
    Write(#[from] WriteError),
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

    pub(super) fn for_restorer(&self) -> RestoreError {
        match self {
            Self::Write(WriteError::NotWritten(_)) => RestoreError::NotWritten(self.to_string()),
            Self::Write(_) | Self::Broken => RestoreError::Failed(self.to_string()),
        }
    }
}
