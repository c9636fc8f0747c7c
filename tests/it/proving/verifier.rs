//! `verify-proof`, in a directory without a configuration, and without a network where the machine
//! allows that.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use aethyr_event_store::proof::VerifierKey;
use tempfile::{NamedTempFile, TempDir, tempdir};

use crate::support::service::program_in;

/// Runs a command without a network.
const WITHOUT_NETWORK: [&str; 2] = ["unshare", "-rn"];

pub struct Verifier {
    folder: TempDir,
    key: String,
}

impl Verifier {
    /// Trusts what this key has signed.
    pub fn of(key: &VerifierKey) -> Self {
        Self { folder: tempdir().unwrap(), key: key.to_string() }
    }

    fn run(&self, proof: &[u8], arguments: &[&str]) -> Output {
        let mut file = NamedTempFile::new_in(&self.folder).unwrap();
        file.write_all(proof).unwrap();
        let before: &[&str] = if may_unshare() { &WITHOUT_NETWORK } else { &[] };
        let mut command = program_in(self.folder.path(), before);
        command.arg("verify-proof").arg(file.path()).args(["--key", &self.key]).args(arguments);
        command.output().unwrap()
    }

    /// Asserts that the proof is accepted. Returns what was printed.
    pub fn assert_accepts(&self, proof: &[u8], arguments: &[&str]) -> String {
        let output = self.run(proof, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asserts that the proof is refused with one line. Returns the line.
    pub fn assert_refuses(&self, proof: &[u8], arguments: &[&str]) -> String {
        let output = self.run(proof, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    }
}

fn may_unshare() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let [program, flags] = WITHOUT_NETWORK;
        let mut command = Command::new(program);
        let status = command.args([flags, "true"]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    })
}
