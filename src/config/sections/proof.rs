//! The sections `proof` and `audit`: signed checkpoints of the history, and the auditor.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The section `proof`: the key that signs checkpoints, and where they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProofConfig {
    /// The name of the log in its checkpoints, for a key that is created. If empty, the name is
    /// made from the id of the log.
    pub origin: String,
    /// The file with the private key. It is created if it does not exist.
    pub key_file: PathBuf,
    /// Whether checkpoints may be signed although earlier ones are signed with another key.
    pub new_key: bool,
    /// The interval of checkpoints. If zero, there are none.
    #[serde(with = "super::seconds")]
    pub checkpoint_every: Duration,
    /// Where checkpoints are published.
    pub anchors: Vec<AnchorConfig>,
}

impl Default for ProofConfig {
    fn default() -> ProofConfig {
        ProofConfig {
            origin: String::new(),
            key_file: "storage/keys/checkpoint.key".into(),
            new_key: false,
            checkpoint_every: Duration::from_secs(60),
            anchors: Vec::new(),
        }
    }
}

/// A place that checkpoints are published to. In YAML, a mapping with one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "AnchorFields", into = "AnchorFields")]
pub enum AnchorConfig {
    /// They are appended to this file.
    File(PathBuf),
    /// This program gets them on its standard input. Its arguments follow.
    Command(Vec<String>),
    /// This witness cosigns them.
    Witness(WitnessConfig),
}

/// A witness.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WitnessConfig {
    /// Its URL, without `/add-checkpoint`.
    pub url: String,
    /// Its verifier key.
    pub key: String,
    /// The PEM file with the certificates that its own one is verified with. If `None`, those of
    /// the well-known authorities are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AnchorFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    witness: Option<WitnessConfig>,
}

impl TryFrom<AnchorFields> for AnchorConfig {
    type Error = &'static str;

    fn try_from(fields: AnchorFields) -> Result<AnchorConfig, &'static str> {
        match fields {
            AnchorFields { file: Some(file), command: None, witness: None } => Ok(AnchorConfig::File(file)),
            AnchorFields { file: None, command: Some(command), witness: None } => {
                Ok(AnchorConfig::Command(command))
            }
            AnchorFields { file: None, command: None, witness: Some(witness) } => {
                Ok(AnchorConfig::Witness(witness))
            }
            AnchorFields { .. } => Err("not one of file, command and witness"),
        }
    }
}

impl From<AnchorConfig> for AnchorFields {
    fn from(anchor: AnchorConfig) -> AnchorFields {
        let none = AnchorFields::default();
        match anchor {
            AnchorConfig::File(file) => AnchorFields { file: Some(file), ..none },
            AnchorConfig::Command(command) => AnchorFields { command: Some(command), ..none },
            AnchorConfig::Witness(witness) => AnchorFields { witness: Some(witness), ..none },
        }
    }
}

/// The section `audit`: the auditor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// The pace at which the history in ImmuDB is read again and verified. If zero, it is not.
    pub events_per_second: u64,
}

impl Default for AuditConfig {
    fn default() -> AuditConfig {
        AuditConfig { events_per_second: 2000 }
    }
}
