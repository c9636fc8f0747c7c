//! A program that gets each checkpoint on its standard input: to post it, to mail it, to stamp it.
//!
//! It runs in a process group of its own, which is killed if the program takes too long. Its only
//! environment variable is `PATH`, and its output is discarded.

use std::{io, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use crate::proof::SignedNote;

/// How long the program may run.
const RUN_MAX: Duration = Duration::from_secs(30);
/// Where programs are looked up if the service has no `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why a program did not take a checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("the program cannot be started: {0}")]
    NotStarted(#[source] io::Error),
    #[error("the program cannot be awaited: {0}")]
    Lost(#[source] io::Error),
    #[error("the program failed ({0})")]
    Failed(std::process::ExitStatus),
    #[error("the program was killed after {0:?}")]
    TooLong(Duration),
}

/// A program and its arguments.
#[derive(Debug)]
pub(super) struct CommandAnchor {
    command: Vec<String>,
}

/// Kills the process group of a program that has not ended, also if nothing waits for it any
/// longer.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The program has ended. Its number may be that of another group from now on.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended at this moment.
            _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl CommandAnchor {
    pub(super) fn new(command: Vec<String>) -> Self {
        Self { command }
    }

    /// Runs the program with a checkpoint, and waits for its end. The caller waits before the next
    /// call, so it never runs twice at once.
    pub(super) async fn publish(&self, note: &SignedNote) -> Result<(), CommandError> {
        self.publish_until(note, tokio::time::sleep(RUN_MAX)).await
    }

    /// Kills the program when `end` resolves.
    async fn publish_until(
        &self,
        note: &SignedNote,
        end: impl Future<Output = ()>,
    ) -> Result<(), CommandError> {
        let mut words = self.command.iter();
        let program = words.next().map(String::as_str).unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
        let mut child = Command::new(program)
            .args(words)
            .env_clear()
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(CommandError::NotStarted)?;
        let group = Group::of(&child);
        let note = note.to_bytes();
        let run = async {
            if let Some(mut input) = child.stdin.take() {
                // A program that does not read it is not wrong: its exit code counts.
                _ = input.write_all(&note).await;
            }
            child.wait().await
        };
        let ended = tokio::select! {
            ended = run => Some(ended),
            () = end => None,
        };
        match ended {
            Some(Ok(status)) => {
                group.ended();
                if status.success() { Ok(()) } else { Err(CommandError::Failed(status)) }
            }
            Some(Err(error)) => Err(CommandError::Lost(error)),
            None => {
                drop(group);
                // Killed, so it ends.
                _ = child.wait().await;
                Err(CommandError::TooLong(RUN_MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::process::test_kill_process;

    use super::*;
    use crate::transparency::kept::tests::kept;

    const POLL: Duration = Duration::from_millis(5);

    fn shell(script: &str, argument: &std::path::Path) -> CommandAnchor {
        let argument = argument.to_str().unwrap().to_owned();
        CommandAnchor::new(vec!["sh".into(), "-c".into(), script.into(), "sh".into(), argument])
    }

    #[tokio::test]
    async fn a_program_gets_the_note_and_no_environment_but_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        shell("cat > \"$1\"; env > \"$1.env\"", &out).publish(&kept(5, 1).note).await.unwrap();
        assert_eq!(fs::read(&out).unwrap(), kept(5, 1).note.to_bytes());
        let environment = fs::read_to_string(dir.path().join("out.env")).unwrap();
        // Those that shells set themselves.
        let own = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
        let given: Vec<&str> =
            environment.lines().filter(|line| !own.iter().any(|own| line.starts_with(own))).collect();
        assert!(matches!(given[..], [path] if path.starts_with("PATH=")), "{given:?}");
    }

    #[tokio::test]
    async fn a_program_that_fails_or_does_not_exist_is_an_error_and_one_that_does_not_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let failed = shell("exit 3", dir.path()).publish(&kept(5, 1).note).await.unwrap_err();
        assert!(matches!(failed, CommandError::Failed(status) if status.code() == Some(3)), "{failed}");
        shell("exit 0", dir.path()).publish(&kept(5, 1).note).await.unwrap();
        let missing = CommandAnchor::new(vec![dir.path().join("missing").to_str().unwrap().to_owned()]);
        let failed = missing.publish(&kept(5, 1).note).await.unwrap_err();
        assert!(matches!(failed, CommandError::NotStarted(_)), "{failed}");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("pids");
        let anchor = shell("sleep 1000 & echo $! $$ > \"$1\"; wait", &out);
        let has_started = async {
            while !fs::read_to_string(&out).is_ok_and(|pids| pids.ends_with('\n')) {
                tokio::time::sleep(POLL).await;
            }
        };
        let failed = anchor.publish_until(&kept(5, 1).note, has_started).await.unwrap_err();
        assert!(matches!(failed, CommandError::TooLong(_)), "{failed}");
        let pids = fs::read_to_string(&out).unwrap();
        let pids: Vec<i32> = pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        let [started, shell] = pids[..] else { panic!("{pids:?}") };
        assert!(test_kill_process(Pid::from_raw(shell).unwrap()).is_err(), "the shell runs");
        // It ends without a parent that could wait for it here.
        let is_running = || {
            let state = fs::read_to_string(format!("/proc/{started}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ") && !state.contains(") X ")
        };
        while is_running() {
            tokio::time::sleep(POLL).await;
        }
    }
}
