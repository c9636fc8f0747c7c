//! The state of the service with respect to ImmuDB, as a pure state machine: no I/O and no clock.
//!
//! The machine judges each commit by its duration. A slow ImmuDB begins the fallback just as an
//! unreachable one does. Only a series of quick commits ends it, because one commit proves nothing
//! about the next.

use std::{collections::VecDeque, time::Duration};

/// The state of the service with respect to ImmuDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// ImmuDB has not been contacted yet. Nothing is accepted or served.
    Starting,
    /// Answers wait for ImmuDB's commit.
    Connected,
    /// ImmuDB is unreachable, refuses requests or is slow. Answers wait for the local disk only.
    Fallback,
    /// ImmuDB receives the backlog, or has not been quick for long enough yet.
    Migrating,
    /// No ImmuDB is configured.
    LocalOnly,
    /// ImmuDB lacks data that it had. Nothing is forwarded until the operator decides.
    Suspect,
    /// Another writer owns the database. No writes are accepted.
    Fenced,
    /// The log is being restored from ImmuDB. Nothing is accepted or served yet.
    Copying,
    /// The history in ImmuDB was changed. Nothing is forwarded until the operator decides.
    Tampered,
}

/// An occurrence that may change the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// An attempt to reach ImmuDB, or to read the local log for it, failed.
    Failed(Failure),
    /// A client has waited for `fallback_after`.
    Overdue,
    /// The transaction in flight has taken longer than [`StateMachine::commit_max`].
    Dragging,
    /// ImmuDB has more events than the local log, which is being restored from it.
    CopyBegan,
    /// The local log has everything that ImmuDB has.
    CopyEnded,
    /// ImmuDB committed a transaction of this service.
    Committed(Commit),
    /// ImmuDB lacks data that it had.
    HistoryMissing,
    /// ImmuDB has a head that this service did not write.
    OtherWriter,
    /// The history in ImmuDB was changed.
    Tampered,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing listens there, or the operator must act: an immediate retry would not help.
    Definite,
    /// The next attempt may succeed.
    Passing,
}

/// A transaction that ImmuDB committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    pub backlog: Backlog,
    /// From the request to the answer.
    pub took: Duration,
    /// Size of the request.
    pub bytes: usize,
}

/// How much ImmuDB lacks after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backlog {
    /// The rest fits into the next transaction.
    FitsOne,
    /// It needs several.
    Large,
}

/// The limits, fixed for the lifetime of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FallbackLimits {
    /// Number of consecutive failures that ends `Connected`.
    pub failures_max: u32,
    /// No client waits longer than this.
    pub fallback_after: Duration,
}

/// Number of recent commits that are examined to detect a slow ImmuDB.
const RECENT_COMMITS: usize = 10;
/// Number of slow commits among them that begins the fallback.
const SLOW_COMMITS: usize = 3;
/// Number of consecutive quick commits that ends the fallback.
const QUICK_COMMITS: u32 = 3;
/// Maximum of that number, which doubles with each further fallback that begins within
/// [`FALLBACKS_APART`].
const QUICK_COMMITS_MAX: u32 = 48;
/// A fallback that begins within this time after the end of the last one counts as a further
/// fallback with the same cause.
const FALLBACKS_APART: Duration = Duration::from_secs(600);
/// A transaction with this many more bytes may take a second longer and still be quick, because a
/// backlog is sent in large transactions.
const BYTES_PER_SECOND: u32 = 16 * 1024 * 1024;
/// Size up to which there is no such allowance.
const SMALL_BYTES: usize = 64 * 1024;

/// The state and everything that determines the next one.
#[derive(Debug)]
pub(crate) struct StateMachine {
    state: State,
    limits: FallbackLimits,
    failures: u32,
    /// Whether each of the last commits in `Connected` was slow, newest last.
    recent: VecDeque<bool>,
    /// Number of consecutive quick commits.
    quick: u32,
    /// Number of quick commits that ends this fallback. `None` before the first fallback.
    quick_needed: Option<u32>,
    fallback_ended: Option<Duration>,
}

impl StateMachine {
    pub(crate) fn new(state: State, limits: FallbackLimits) -> Self {
        let recent = VecDeque::with_capacity(RECENT_COMMITS);
        Self { state, limits, failures: 0, recent, quick: 0, quick_needed: None, fallback_ended: None }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Returns the duration above which a commit is slow.
    pub(crate) fn slow_above(&self) -> Duration {
        self.limits.fallback_after / 2
    }

    /// Returns the duration below which a small commit is quick.
    pub(crate) fn quick_below(&self) -> Duration {
        self.limits.fallback_after / 4
    }

    /// Returns how long the transaction in flight may take before it counts as the last slow commit
    /// that begins the fallback. Its clients have waited for the earlier slow commits and need not
    /// wait for its end. The limit is a bit lower than that of a slow commit, so that they are
    /// spared a third long wait. Returns `None` unless one more slow commit would begin the
    /// fallback.
    pub(crate) fn commit_max(&self) -> Option<Duration> {
        let before = self.recent.iter().rev().take(RECENT_COMMITS - 1).filter(|slow| **slow).count();
        let is_last = self.state == State::Connected && before + 1 >= SLOW_COMMITS;
        is_last.then(|| self.limits.fallback_after / 5 * 2)
    }

    /// Returns the state after `signal`, at a time measured from any fixed moment.
    pub(crate) fn on(&mut self, signal: Signal, at: Duration) -> State {
        self.state = match signal {
            Signal::Failed(failure) => {
                self.failures = self.failures.saturating_add(1);
                self.quick = 0;
                match failure {
                    Failure::Definite => self.given_up(at),
                    Failure::Passing if self.failures >= self.limits.failures_max => self.given_up(at),
                    Failure::Passing => self.state,
                }
            }
            Signal::Overdue => self.given_up(at),
            Signal::Dragging => match self.state {
                State::Connected => self.given_up(at),
                other @ (State::Starting
                | State::Fallback
                | State::Migrating
                | State::LocalOnly
                | State::Suspect
                | State::Fenced
                | State::Copying
                | State::Tampered) => other,
            },
            Signal::CopyBegan => self.copy_began(),
            Signal::CopyEnded => self.copy_ended(),
            Signal::Committed(commit) => {
                self.failures = 0;
                self.committed(commit, at)
            }
            Signal::HistoryMissing => self.history_missing(),
            Signal::OtherWriter => self.other_writer(),
            Signal::Tampered => self.tampered(),
        };
        self.state
    }

    fn copy_began(&self) -> State {
        match self.state {
            State::Starting | State::Fallback | State::Copying => State::Copying,
            other @ (State::Connected
            | State::Migrating
            | State::LocalOnly
            | State::Suspect
            | State::Fenced
            | State::Tampered) => other,
        }
    }

    fn copy_ended(&self) -> State {
        match self.state {
            State::Copying => State::Starting,
            other @ (State::Starting
            | State::Connected
            | State::Fallback
            | State::Migrating
            | State::LocalOnly
            | State::Suspect
            | State::Fenced
            | State::Tampered) => other,
        }
    }

    fn history_missing(&self) -> State {
        match self.state {
            // While restoring, the end of the log exists only in an ImmuDB that cannot be trusted,
            // so no events may be accepted.
            State::Fenced | State::LocalOnly | State::Copying | State::Tampered => self.state,
            State::Starting | State::Connected | State::Fallback | State::Migrating | State::Suspect => {
                State::Suspect
            }
        }
    }

    fn other_writer(&self) -> State {
        match self.state {
            State::LocalOnly | State::Tampered => self.state,
            State::Starting
            | State::Connected
            | State::Fallback
            | State::Migrating
            | State::Suspect
            | State::Fenced
            | State::Copying => State::Fenced,
        }
    }

    fn tampered(&self) -> State {
        match self.state {
            // While restoring, as for missing history.
            State::Fenced | State::LocalOnly | State::Copying => self.state,
            State::Starting
            | State::Connected
            | State::Fallback
            | State::Migrating
            | State::Suspect
            | State::Tampered => State::Tampered,
        }
    }

    /// Stops clients from waiting for ImmuDB. A restore continues: it must end before anything is
    /// served.
    fn given_up(&mut self, at: Duration) -> State {
        match self.state {
            State::Starting | State::Connected => {
                let is_further =
                    self.fallback_ended.is_some_and(|ended| at.saturating_sub(ended) <= FALLBACKS_APART);
                let needed = self.quick_needed.filter(|_| is_further);
                let needed = needed.map_or(QUICK_COMMITS, |needed| needed.saturating_mul(2));
                self.quick_needed = Some(needed.min(QUICK_COMMITS_MAX));
                self.fell_back()
            }
            // The fallback has not ended yet. Or the service started with a backlog and has had
            // none.
            State::Migrating | State::Fallback => {
                self.quick_needed.get_or_insert(QUICK_COMMITS);
                self.fell_back()
            }
            other
            @ (State::LocalOnly | State::Suspect | State::Fenced | State::Copying | State::Tampered) => other,
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
                if slow >= SLOW_COMMITS || commit.took > self.limits.fallback_after {
                    self.given_up(at)
                } else {
                    State::Connected
                }
            }
            State::Starting | State::Fallback | State::Migrating | State::Copying => {
                self.quick = if self.is_quick(commit) { self.quick.saturating_add(1) } else { 0 };
                let lacks_quick = self.quick_needed.is_some_and(|needed| self.quick < needed);
                if commit.backlog == Backlog::Large || lacks_quick {
                    return State::Migrating;
                }
                if self.quick_needed.is_some() {
                    self.fallback_ended = Some(at);
                }
                State::Connected
            }
            // A commit that was in flight when the operator's decision became necessary changes
            // nothing.
            other @ (State::LocalOnly | State::Suspect | State::Fenced | State::Tampered) => other,
        }
    }

    /// Returns whether a commit is quick. A slow commit is never quick, however large it is: the
    /// next fallback would follow at once.
    pub(crate) fn is_quick(&self, commit: Commit) -> bool {
        let bytes = u32::try_from(commit.bytes.saturating_sub(SMALL_BYTES)).unwrap_or(u32::MAX);
        let for_bytes = Duration::from_secs(1).mul_f64(f64::from(bytes) / f64::from(BYTES_PER_SECOND));
        let below = self.quick_below().saturating_add(for_bytes).min(self.slow_above());
        commit.took < below
    }
}

#[cfg(test)]
mod tests;
