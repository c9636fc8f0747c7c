//! Witnesses, which sign the checkpoints of a log only if each continues those before it.
//!
//! A witness keeps the newest checkpoint of each of its logs. It signs another one, together with
//! the time, if a proof of consistency leads from the kept one to it. A log whose history was
//! exchanged has no such proof, even if everything at the place of the log was exchanged with it.
//!
//! The protocol is `c2sp.org/tlog-witness`, and the signatures are those of
//! `c2sp.org/tlog-cosignature`, with Ed25519. [`Client`] obtains cosignatures from any such
//! witness, over HTTP or HTTPS. [`serve`] is a witness, over HTTP. It promises that what it has
//! signed is on its disk, that the size of a log never decreases, and that it never signs two
//! histories of one log. The module knows neither events nor the configuration.

mod body;
mod client;
mod cosigner;
mod cosigning_key;
mod key_file;
mod request;
mod server;
mod signature_lines;
mod state;

pub use client::{Client, ClientError, Cosignature, TlsError, WitnessError, WitnessSettings};
pub use cosigning_key::{CosigningKey, CosigningKeyError};
pub use key_file::{KeyFileError, load_or_create_key};
pub use server::{ServeError, WitnessServerSettings, serve};
pub use signature_lines::LinesError;
pub use state::{StateError, create_state};
