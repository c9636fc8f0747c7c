//! How the service stands to ImmuDB, as a pure machine: no I/O and no clock.
//!
//! It judges each commit by its duration. A slow ImmuDB begins the fallback as one that is gone does, and only a
//! series of quick commits ends it: one that came through proves nothing about the next.

use std::{collections::VecDeque, time::Duration};

/// How the service stands to ImmuDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// ImmuDB was not asked yet. Nothing is taken or served.
    Starting,
    /// Answers wait for ImmuDB's commit.
    Connected,
    /// ImmuDB is out of reach, refuses or is slow; answers wait for the local disk only.
    Fallback,
    /// ImmuDB takes the backlog, or has not been quick for long enough.
    Migrating,
    /// No ImmuDB is configured.
    LocalOnly,
    /// ImmuDB lacks what it had; nothing is forwarded until a person decides.
    Suspect,
    /// Another writer has the database; nothing is taken.
    Fenced,
    /// The log takes history out of ImmuDB; nothing is taken or served yet.
    Copying,
}

/// What can happen between the service and ImmuDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// An attempt at ImmuDB failed.
    Failed(Failure),
    /// A caller has waited for `fallback_after`.
    Overdue,
    /// The transaction under way has taken longer than [`Machine::commit_max`].
    Dragging,
    /// ImmuDB has more than the local log, which takes it over.
    CopyBegan,
    /// ImmuDB committed a transaction of ours.
    Committed(Commit),
    /// ImmuDB lacks what it had.
    HistoryMissing,
    /// ImmuDB has a head that we did not write.
    OtherWriter,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody is there, or a person must look: trying again at once makes no sense.
    Definite,
    /// It may go better the next time.
    Passing,
}

/// A transaction that ImmuDB committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    pub rest: Rest,
    /// From the request to the answer.
    pub took: Duration,
    /// Of the request.
    pub bytes: usize,
}

/// What ImmuDB lacks after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The next transaction takes all of it.
    FitsOne,
    Backlog,
}

/// What is told once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// So many failures in a row end Connected.
    pub failures_max: u32,
    /// No caller waits for longer.
    pub fallback_after: Duration,
}

/// Commits that are looked back at to find a slow ImmuDB.
const RECENT_COMMITS: usize = 10;
/// So many slow ones among them begin the fallback.
const SLOW_COMMITS: usize = 3;
/// So many quick commits in a row end the fallback.
const QUICK_COMMITS: u32 = 3;
/// The same, doubled with each further fallback that begins within [`FALLBACKS_APART`].
const QUICK_COMMITS_MAX: u32 = 48;
/// A fallback that begins within this time after the end of the last one is a further one of the same trouble.
const FALLBACKS_APART: Duration = Duration::from_secs(600);
/// A transaction with so many more bytes may take a second longer and still be quick: a backlog goes over in large ones.
const BYTES_PER_SECOND: u32 = 16 * 1024 * 1024;
/// No such allowance for small ones.
const SMALL_BYTES: usize = 64 * 1024;

/// The state and what decides on the next one.
#[derive(Debug)]
pub struct Machine {
    state: State,
    limits: Limits,
    failures: u32,
    /// Whether each of the last commits in Connected was slow, the newest last.
    recent: VecDeque<bool>,
    /// Quick commits in a row.
    quick: u32,
    /// So many of them end this fallback. 0 before the first one.
    quick_needed: u32,
    fallback_ended: Option<Duration>,
}

impl Machine {
    pub fn new(state: State, limits: Limits) -> Self {
        let recent = VecDeque::with_capacity(RECENT_COMMITS);
        Self { state, limits, failures: 0, recent, quick: 0, quick_needed: 0, fallback_ended: None }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// A commit that takes longer is slow.
    pub fn slow_above(&self) -> Duration {
        self.limits.fallback_after / 2
    }

    /// A small commit that takes less is quick.
    pub fn quick_below(&self) -> Duration {
        self.limits.fallback_after / 4
    }

    /// A transaction under way that takes longer is the last slow one that begins the fallback: its callers, who have
    /// waited for the others, need not wait for its end. A bit less than what makes it slow, so that theirs is no third
    /// long wait.
    pub fn commit_max(&self) -> Option<Duration> {
        let before = self.recent.iter().rev().take(RECENT_COMMITS - 1).filter(|slow| **slow).count();
        let is_last = self.state == State::Connected && before + 1 >= SLOW_COMMITS;
        is_last.then(|| self.limits.fallback_after / 5 * 2)
    }

    /// The state after something happened, at this time since any fixed moment.
    pub fn on(&mut self, happening: Happening, at: Duration) -> State {
        self.state = match happening {
            Happening::Failed(failure) => {
                self.failures = self.failures.saturating_add(1);
                self.quick = 0;
                match failure {
                    Failure::Definite => self.given_up(at),
                    Failure::Passing if self.failures >= self.limits.failures_max => self.given_up(at),
                    Failure::Passing => self.state,
                }
            }
            Happening::Overdue => self.given_up(at),
            Happening::Dragging => match self.state {
                State::Connected => self.given_up(at),
                other @ (State::Starting
                | State::Fallback
                | State::Migrating
                | State::LocalOnly
                | State::Suspect
                | State::Fenced
                | State::Copying) => other,
            },
            Happening::CopyBegan => match self.state {
                State::Starting | State::Fallback | State::Copying => State::Copying,
                other @ (State::Connected
                | State::Migrating
                | State::LocalOnly
                | State::Suspect
                | State::Fenced) => other,
            },
            Happening::Committed(commit) => {
                self.failures = 0;
                self.committed(commit, at)
            }
            Happening::HistoryMissing => match self.state {
                // A log whose end is still in an ImmuDB that can't be trusted must not take events.
                State::Fenced | State::LocalOnly | State::Copying => self.state,
                State::Starting | State::Connected | State::Fallback | State::Migrating | State::Suspect => {
                    State::Suspect
                }
            },
            Happening::OtherWriter => match self.state {
                State::LocalOnly => self.state,
                State::Starting
                | State::Connected
                | State::Fallback
                | State::Migrating
                | State::Suspect
                | State::Fenced
                | State::Copying => State::Fenced,
            },
        };
        self.state
    }

    /// Callers wait for ImmuDB no longer. A copy that was begun has to be ended before anything is served.
    fn given_up(&mut self, at: Duration) -> State {
        match self.state {
            State::Starting | State::Connected => {
                let is_further =
                    self.fallback_ended.is_some_and(|ended| at.saturating_sub(ended) <= FALLBACKS_APART);
                self.quick_needed = match is_further {
                    true => self.quick_needed.saturating_mul(2).clamp(QUICK_COMMITS, QUICK_COMMITS_MAX),
                    false => QUICK_COMMITS,
                };
                self.fell_back()
            }
            // The fallback has not ended yet. A start with a backlog has had none.
            State::Migrating | State::Fallback => {
                self.quick_needed = self.quick_needed.max(QUICK_COMMITS);
                self.fell_back()
            }
            other @ (State::LocalOnly | State::Suspect | State::Fenced | State::Copying) => other,
        }
    }

    fn fell_back(&mut self) -> State {
        self.quick = 0;
        self.recent.clear();
        State::Fallback
    }

    fn committed(&mut self, commit: Commit, at: Duration) -> State {
        match self.state {
            State::Connected => {
                if self.recent.len() >= RECENT_COMMITS {
                    self.recent.pop_front();
                }
                self.recent.push_back(commit.took > self.slow_above());
                let slow = self.recent.iter().filter(|slow| **slow).count();
                match slow >= SLOW_COMMITS || commit.took > self.limits.fallback_after {
                    true => self.given_up(at),
                    false => State::Connected,
                }
            }
            State::Starting | State::Fallback | State::Migrating | State::Copying => {
                self.quick = if self.is_quick(commit) { self.quick.saturating_add(1) } else { 0 };
                if commit.rest == Rest::Backlog || self.quick < self.quick_needed {
                    return State::Migrating;
                }
                if self.quick_needed > 0 {
                    self.fallback_ended = Some(at);
                }
                State::Connected
            }
            // A commit that was under way when a person's decision became necessary decides nothing.
            other @ (State::LocalOnly | State::Suspect | State::Fenced) => other,
        }
    }

    /// Never what would be slow, however large it is: the next fallback would follow at once.
    pub fn is_quick(&self, commit: Commit) -> bool {
        let bytes = u32::try_from(commit.bytes.saturating_sub(SMALL_BYTES)).unwrap_or(u32::MAX);
        let for_bytes = Duration::from_secs(1).mul_f64(f64::from(bytes) / f64::from(BYTES_PER_SECOND));
        let below = self.quick_below().saturating_add(for_bytes).min(self.slow_above());
        commit.took < below
    }
}

#[cfg(test)]
mod tests;
