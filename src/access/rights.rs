//! Rights and sets of them.

/// What an identity may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Append events.
    Append,
    /// Append events to aggregates of the types of the world.
    AppendWorld,
    /// Save snapshots.
    Snapshot,
    /// Read the events and snapshots of single aggregates, and list aggregates.
    Load,
    /// Read the order of all events.
    Subscribe,
    /// Execute commands of the world.
    Execute,
    /// Execute commands that change players.
    ExecutePlayers,
    /// Read the objects of the world.
    Ask,
    /// See password hashes.
    SeeSecrets,
    /// Obtain proofs and have the history verified.
    Prove,
    /// Read the statistics.
    Stats,
    /// Rebuild and repair the world.
    Operate,
    /// Use server reflection.
    Reflect,
}

impl Right {
    /// All rights.
    pub const ALL: [Self; 13] = [
        Self::Append,
        Self::AppendWorld,
        Self::Snapshot,
        Self::Load,
        Self::Subscribe,
        Self::Execute,
        Self::ExecutePlayers,
        Self::Ask,
        Self::SeeSecrets,
        Self::Prove,
        Self::Stats,
        Self::Operate,
        Self::Reflect,
    ];

    /// Returns the name, as in `access.yml` and in the details of a refusal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::AppendWorld => "append_world",
            Self::Snapshot => "snapshot",
            Self::Load => "load",
            Self::Subscribe => "subscribe",
            Self::Execute => "execute",
            Self::ExecutePlayers => "execute_players",
            Self::Ask => "ask",
            Self::SeeSecrets => "see_secrets",
            Self::Prove => "prove",
            Self::Stats => "stats",
            Self::Operate => "operate",
            Self::Reflect => "reflect",
        }
    }

    /// Returns the right with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.name() == name)
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u16);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Every right.
    pub const ALL: Self = Self((1_u16 << Right::ALL.len()) - 1);

    /// Returns whether the right is in the set.
    pub fn has(self, right: Right) -> bool {
        self.0 & bit(right) != 0
    }

    /// Returns the set with one more right.
    #[must_use]
    pub fn with(self, right: Right) -> Self {
        Self(self.0 | bit(right))
    }

    /// Returns whether at least one of the rights is in the set.
    pub fn has_any(self, rights: &[Right]) -> bool {
        rights.iter().any(|right| self.has(*right))
    }

    /// Returns the rights in the set.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.has(*right))
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        rights.into_iter().fold(Self::NONE, Self::with)
    }
}

/// The bit of a right. There are fewer rights than bits.
fn bit(right: Right) -> u16 {
    1_u16 << (right as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_right_has_a_name_of_its_own_and_a_bit_of_its_own() {
        for (number, right) in Right::ALL.into_iter().enumerate() {
            assert_eq!(right as usize, number, "{right:?} is at its place in the list");
            assert_eq!(Right::parse(right.name()), Some(right));
            let alone = Rights::NONE.with(right);
            assert_eq!(alone.iter().collect::<Vec<_>>(), [right]);
        }
        assert_eq!(Rights::from_iter(Right::ALL), Rights::ALL);
        for name in ["", "Append", "append ", "append-world", "fly"] {
            assert_eq!(Right::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_set_has_what_was_added_and_nothing_else() {
        let rights = Rights::NONE.with(Right::Load).with(Right::Ask).with(Right::Load);
        assert_eq!(rights.iter().collect::<Vec<_>>(), [Right::Load, Right::Ask]);
        assert!(rights.has(Right::Load) && !rights.has(Right::Append));
        assert!(rights.has_any(&[Right::Append, Right::Ask]));
        assert!(!rights.has_any(&[Right::Append, Right::Operate]) && !rights.has_any(&[]));
        assert!(!Right::ALL.into_iter().any(|right| Rights::default().has(right)));
    }
}
