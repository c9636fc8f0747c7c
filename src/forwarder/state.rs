//! How the service stands to ImmuDB, as a pure machine: no I/O and no clock.

/// How the service stands to ImmuDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// ImmuDB was not asked yet. Nothing is taken or served.
    Starting,
    /// Answers wait for ImmuDB's commit.
    Connected,
    /// ImmuDB is out of reach or refuses; answers wait for the local disk only.
    Fallback,
    /// ImmuDB is back and takes the backlog.
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
    /// ImmuDB has more than the local log, which takes it over.
    CopyBegan,
    /// ImmuDB committed a transaction of ours.
    Committed(Rest),
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

/// What ImmuDB lacks after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The next transaction takes all of it.
    FitsOne,
    Backlog,
}

/// The state and what decides on the next one.
#[derive(Debug)]
pub struct Machine {
    state: State,
    failures: u32,
    failures_max: u32,
}

impl Machine {
    /// `failures_max`: so many failures in a row end Connected.
    pub fn new(state: State, failures_max: u32) -> Self {
        Self { state, failures: 0, failures_max }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// The state after something happened.
    pub fn on(&mut self, happening: Happening) -> State {
        self.state = match happening {
            Happening::Failed(failure) => {
                self.failures = self.failures.saturating_add(1);
                match failure {
                    Failure::Definite => self.given_up(),
                    Failure::Passing if self.failures >= self.failures_max => self.given_up(),
                    Failure::Passing => self.state,
                }
            }
            Happening::Overdue => self.given_up(),
            Happening::CopyBegan => match self.state {
                State::Starting | State::Fallback | State::Copying => State::Copying,
                other @ (State::Connected
                | State::Migrating
                | State::LocalOnly
                | State::Suspect
                | State::Fenced) => other,
            },
            Happening::Committed(rest) => {
                self.failures = 0;
                self.committed(rest)
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
    fn given_up(&self) -> State {
        match self.state {
            State::Starting | State::Connected | State::Migrating | State::Fallback => State::Fallback,
            other @ (State::LocalOnly | State::Suspect | State::Fenced | State::Copying) => other,
        }
    }

    fn committed(&self, rest: Rest) -> State {
        match (self.state, rest) {
            (State::Connected, _) => State::Connected,
            (State::Starting | State::Fallback | State::Migrating | State::Copying, Rest::FitsOne) => {
                State::Connected
            }
            (State::Starting | State::Fallback | State::Migrating | State::Copying, Rest::Backlog) => {
                State::Migrating
            }
            // A commit that was under way when a person's decision became necessary decides nothing.
            (other @ (State::LocalOnly | State::Suspect | State::Fenced), _) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Failure::{Definite, Passing},
        Happening::{Committed, CopyBegan, Failed, HistoryMissing, OtherWriter, Overdue},
        Machine,
        Rest::{Backlog, FitsOne},
        State::{self, Connected, Copying, Fallback, Fenced, LocalOnly, Migrating, Starting, Suspect},
    };

    const STATES: [State; 8] =
        [Starting, Connected, Fallback, Migrating, LocalOnly, Suspect, Fenced, Copying];

    #[test]
    fn every_state_goes_where_the_table_says() {
        let table = [
            (Failed(Definite), [Fallback, Fallback, Fallback, Fallback, LocalOnly, Suspect, Fenced, Copying]),
            (
                Failed(Passing),
                [Starting, Connected, Fallback, Migrating, LocalOnly, Suspect, Fenced, Copying],
            ),
            (Overdue, [Fallback, Fallback, Fallback, Fallback, LocalOnly, Suspect, Fenced, Copying]),
            (CopyBegan, [Copying, Connected, Copying, Migrating, LocalOnly, Suspect, Fenced, Copying]),
            (
                Committed(FitsOne),
                [Connected, Connected, Connected, Connected, LocalOnly, Suspect, Fenced, Connected],
            ),
            (
                Committed(Backlog),
                [Migrating, Connected, Migrating, Migrating, LocalOnly, Suspect, Fenced, Migrating],
            ),
            (HistoryMissing, [Suspect, Suspect, Suspect, Suspect, LocalOnly, Suspect, Fenced, Copying]),
            (OtherWriter, [Fenced, Fenced, Fenced, Fenced, LocalOnly, Fenced, Fenced, Fenced]),
        ];
        for (happening, expected) in table {
            for (from, to) in STATES.into_iter().zip(expected) {
                assert_eq!(Machine::new(from, 5).on(happening), to, "{from:?} on {happening:?}");
            }
        }
    }

    #[test]
    fn failures_in_a_row_end_connected_and_a_commit_forgives_them() {
        let mut machine = Machine::new(Connected, 3);
        assert_eq!([machine.on(Failed(Passing)), machine.on(Failed(Passing))], [Connected, Connected]);
        machine.on(Committed(FitsOne));
        assert_eq!([machine.on(Failed(Passing)), machine.on(Failed(Passing))], [Connected, Connected]);
        assert_eq!(machine.on(Failed(Passing)), Fallback);
    }
}
