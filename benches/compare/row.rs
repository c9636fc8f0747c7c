//! The rows of the report. Each is a system with certain settings.

use serde::{Deserialize, Serialize};

use crate::work::{Spread, Work};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Row {
    AethyrLocal,
    AethyrEventFiles,
    AethyrImmudb,
    ImmudbConditional,
    ImmudbConditionalOurs,
    ImmudbSet,
    ImmudbSetOurs,
    Umadb,
    Nats,
    MessageDb,
}

impl Row {
    pub const ALL: [Self; 10] = [
        Self::AethyrLocal,
        Self::AethyrEventFiles,
        Self::AethyrImmudb,
        Self::ImmudbConditional,
        Self::ImmudbConditionalOurs,
        Self::ImmudbSet,
        Self::ImmudbSetOurs,
        Self::Umadb,
        Self::Nats,
        Self::MessageDb,
    ];

    /// Returns the name for `--only`.
    pub fn key(self) -> &'static str {
        match self {
            Self::AethyrLocal => "aethyr-local",
            Self::AethyrEventFiles => "aethyr-event-files",
            Self::AethyrImmudb => "aethyr-immudb",
            Self::ImmudbConditional => "immudb-conditional",
            Self::ImmudbConditionalOurs => "immudb-conditional-ours",
            Self::ImmudbSet => "immudb-set",
            Self::ImmudbSetOurs => "immudb-set-ours",
            Self::Umadb => "umadb",
            Self::Nats => "nats",
            Self::MessageDb => "message-db",
        }
    }

    /// Returns the name in the report.
    pub fn title(self) -> &'static str {
        match self {
            Self::AethyrLocal => "Aethyr, local only",
            Self::AethyrEventFiles => "Aethyr, local only, event files",
            Self::AethyrImmudb => "Aethyr with ImmuDB",
            Self::ImmudbConditional => "ImmuDB, conditional `Set`",
            Self::ImmudbConditionalOurs => "ImmuDB, conditional `Set`, service settings",
            Self::ImmudbSet => "ImmuDB, `Set`",
            Self::ImmudbSetOurs => "ImmuDB, `Set`, service settings",
            Self::Umadb => "UmaDB",
            Self::Nats => "NATS JetStream",
            Self::MessageDb => "message-db",
        }
    }

    /// Returns whether the system supports the workload, and another workload does not measure the
    /// same.
    pub fn offers(self, work: Work) -> bool {
        match self {
            Self::ImmudbConditional | Self::ImmudbConditionalOurs => work.spread == Spread::Conditional,
            Self::ImmudbSet | Self::ImmudbSetOurs => work.spread == Spread::Unconditional,
            _ => true,
        }
    }
}
