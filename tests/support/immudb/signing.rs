//! Keys on the curve P-256, with which ImmuDB signs its states. They exist for tests only.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The private key for ImmuDB's `--signingKey`.
pub const SIGNING_KEY: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIL6K1acD7LJRk0Bm78EkFHLavNC+UllEnGhAE4a+rszIoAoGCCqGSM49
AwEHoUQDQgAEVqyN0t9yvu0ItGXpTBusbGwhXybPFOmsOyLm4b3ZNiP8yoM8rHu5
J7u+DGkDFLw6K8frhPoXnKChjPKyON85nw==
-----END EC PRIVATE KEY-----
";
pub const ITS_PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEVqyN0t9yvu0ItGXpTBusbGwhXybP
FOmsOyLm4b3ZNiP8yoM8rHu5J7u+DGkDFLw6K8frhPoXnKChjPKyON85nw==
-----END PUBLIC KEY-----
";
pub const ANOTHER_PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEE80goFJyKbcIH+FAcJ8JRr6qFPX5
9Zsy4fV2wNHSCrEur2B0BFN7c03ZwAgRfH7QfjgNUvi3eRPLJE3qpVfzkg==
-----END PUBLIC KEY-----
";

/// Writes a key to a file.
pub fn write(folder: &Path, name: &str, key: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, key).unwrap();
    path
}
