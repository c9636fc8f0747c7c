//! The ready-made roles, and what a role states.

use std::collections::BTreeSet;

use super::{Right, Rights, Scope, Shares};

/// The rights, the scope and the limits of the identities that have the role.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Role {
    pub rights: Rights,
    pub scope: Scope,
    /// See [`super::Identity::actors`].
    pub actors: Option<BTreeSet<String>>,
    /// See [`super::Identity::event_types`].
    pub event_types: Option<BTreeSet<String>>,
    pub shares: Shares,
}

/// The roles that need not be defined, and cannot be redefined. Their scope is unrestricted.
pub(super) const READY_MADE: [(&str, &[Right]); 7] = [
    (
        "game",
        &[
            Right::Append,
            Right::AppendWorld,
            Right::Snapshot,
            Right::Load,
            Right::Subscribe,
            Right::Execute,
            Right::ExecutePlayers,
            Right::Ask,
            Right::SeeSecrets,
            Right::Prove,
            Right::Stats,
            Right::Reflect,
        ],
    ),
    ("builder", &[Right::Execute, Right::Ask, Right::Stats, Right::Reflect]),
    ("projector", &[Right::Load, Right::Subscribe, Right::Ask, Right::Stats, Right::Reflect]),
    ("reader", &[Right::Load, Right::Subscribe, Right::Ask, Right::Prove, Right::Stats, Right::Reflect]),
    ("auditor", &[Right::Prove, Right::Stats, Right::Reflect]),
    ("monitor", &[Right::Stats, Right::Reflect]),
    ("admin", &Right::ALL),
];

/// Returns the ready-made role with this name.
pub(super) fn ready_made(name: &str) -> Option<Role> {
    let (_, rights) = READY_MADE.iter().find(|(known, _)| *known == name)?;
    Some(Role { rights: rights.iter().copied().collect(), ..Role::default() })
}

/// Returns the names of the ready-made roles, separated by commas.
pub(super) fn ready_made_names() -> String {
    READY_MADE.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each right, and which of these roles have it: game, builder, projector, reader, auditor,
    /// monitor, admin.
    const TABLE: [(&str, &str); 13] = [
        ("append", "x.....x"),
        ("append_world", "x.....x"),
        ("snapshot", "x.....x"),
        ("load", "x.xx..x"),
        ("subscribe", "x.xx..x"),
        ("execute", "xx....x"),
        ("execute_players", "x.....x"),
        ("ask", "xxxx..x"),
        ("see_secrets", "x.....x"),
        ("prove", "x..xx.x"),
        ("stats", "xxxxxxx"),
        ("operate", "......x"),
        ("reflect", "xxxxxxx"),
    ];

    #[test]
    fn the_ready_made_roles_have_the_rights_of_the_table() {
        let names = ["game", "builder", "projector", "reader", "auditor", "monitor", "admin"];
        assert_eq!(ready_made_names(), names.join(", "));
        assert_eq!(TABLE.len(), Right::ALL.len());
        for (column, name) in names.into_iter().enumerate() {
            let role = ready_made(name).unwrap();
            for (right, row) in TABLE {
                let expected = row.as_bytes()[column] == b'x';
                assert_eq!(role.rights.has(Right::parse(right).unwrap()), expected, "{name}: {right}");
            }
            assert!(role.scope.is_unrestricted() && role.actors.is_none() && role.event_types.is_none());
            assert_eq!(role.shares, Shares::default());
        }
        assert_eq!(ready_made("Game"), None);
    }
}
