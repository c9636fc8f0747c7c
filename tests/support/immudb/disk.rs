//! A separate in-memory file system for a server under test. It can be filled up.
//!
//! The mount is in a namespace that a process of the test holds, so it outlives the server and is
//! removed with the value.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

pub struct Disk {
    mount: PathBuf,
    mebibytes: u32,
    holder: Child,
}

impl Disk {
    /// Mounts the file system. Returns `None` if this machine does not allow it.
    pub fn mount(on: &Path, mebibytes: u32) -> Option<Self> {
        let script = "mount -t tmpfs -o size=$1m tmpfs \"$2\" && echo mounted && exec cat";
        let mut holder = Command::new("unshare")
            .args(["-rm", "sh", "-c", script, "sh", &mebibytes.to_string()])
            .arg(on)
            // The process ends when this end of its input is closed, at the latest when the test
            // ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take()?).read_line(&mut line).ok()?;
        if line != "mounted\n" {
            _ = holder.wait();
            return None;
        }
        Some(Self { mount: on.to_owned(), mebibytes, holder })
    }

    /// Returns a command that runs `program` inside the namespace.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string()]);
        command.args(["--user", "--mount", "--preserve-credentials"]).arg(program);
        command
    }

    /// Leaves hardly a byte free.
    pub fn fill(&self) {
        // The server may write more between measuring and resizing.
        for slack in (0..1024).step_by(16) {
            if self.resize(&format!("{}k", self.used_kibibytes() + slack)) {
                return;
            }
        }
        panic!("the disk can't be filled");
    }

    pub fn free(&self) {
        assert!(self.resize(&format!("{}m", self.mebibytes)), "the disk can't be made large again");
    }

    fn used_kibibytes(&self) -> u64 {
        let output = self.command(Path::new("df")).args(["--output=used", "-k"]).arg(&self.mount).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.lines().last().unwrap().trim().parse().unwrap()
    }

    fn resize(&self, size: &str) -> bool {
        let mut mount = self.command(Path::new("mount"));
        mount.args(["-o", &format!("remount,size={size}")]).arg(&self.mount).stderr(Stdio::null());
        mount.status().unwrap().success()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}
