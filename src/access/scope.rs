//! The aggregates that an identity may name.

use std::collections::BTreeSet;

/// The aggregates that an identity may name. Unrestricted by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// An id has to begin with one of these. `None`: any id.
    pub prefixes: Option<Vec<String>>,
    /// The type has to be one of these. `None`: any type.
    pub aggregate_types: Option<BTreeSet<String>>,
}

impl Scope {
    /// Returns whether every aggregate is in scope.
    pub fn is_unrestricted(&self) -> bool {
        self.prefixes.is_none() && self.aggregate_types.is_none()
    }

    /// Returns whether the id begins with one of the prefixes.
    pub fn has_id(&self, id: &str) -> bool {
        self.prefixes.as_ref().is_none_or(|prefixes| prefixes.iter().any(|prefix| id.starts_with(prefix)))
    }

    /// Returns whether the type is in scope.
    pub fn has_type(&self, aggregate_type: &str) -> bool {
        self.aggregate_types.as_ref().is_none_or(|types| types.contains(aggregate_type))
    }

    /// Returns whether everything that a filter selects is in scope. An empty list selects all.
    /// `ids`, `prefixes` and `types` restrict together; within a list, any element may match.
    ///
    /// An id or a type that is not in scope is never covered, even if the filter selects nothing
    /// with it: no request may name it.
    pub fn covers(&self, ids: &[&str], prefixes: &[&str], types: &[&str]) -> bool {
        self.covers_ids(ids, prefixes) && self.covers_types(types)
    }

    fn covers_ids(&self, ids: &[&str], prefixes: &[&str]) -> bool {
        if self.prefixes.is_none() {
            return true;
        }
        // Everything that begins with a prefix in scope is in scope as well.
        let named = if ids.is_empty() { prefixes } else { ids };
        !named.is_empty() && named.iter().all(|text| self.has_id(text))
    }

    fn covers_types(&self, types: &[&str]) -> bool {
        if self.aggregate_types.is_none() {
            return true;
        }
        !types.is_empty() && types.iter().all(|aggregate_type| self.has_type(aggregate_type))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(prefixes: Option<&[&str]>, types: Option<&[&str]>) -> Scope {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Scope {
            prefixes: prefixes.map(owned),
            aggregate_types: types.map(|types| owned(types).into_iter().collect()),
        }
    }

    #[test]
    fn without_restrictions_everything_is_in_scope() {
        let all = Scope::default();
        assert!(all.is_unrestricted() && all.has_id("") && all.has_id("x") && all.has_type("Room"));
        assert!(all.covers(&[], &[], &[]) && all.covers(&["x"], &["y"], &["Room"]));
    }

    #[test]
    fn an_id_begins_with_a_prefix_and_a_type_is_in_the_list() {
        let part = scope(Some(&["arena-", "player-"]), Some(&["Room"]));
        assert!(!part.is_unrestricted());
        assert!(part.has_id("arena-1") && part.has_id("player-") && part.has_type("Room"));
        for id in ["", "arena", "Arena-1", "xarena-1", "room-1"] {
            assert!(!part.has_id(id), "{id}");
        }
        assert!(!part.has_type("room") && !part.has_type("Rooms") && !part.has_type(""));
        let nothing = scope(Some(&[]), Some(&[]));
        assert!(!nothing.has_id("arena-1") && !nothing.has_type("Room") && !nothing.is_unrestricted());
    }

    #[test]
    fn a_filter_is_covered_if_all_that_it_selects_is_in_scope() {
        let part = scope(Some(&["arena-"]), None);
        for (ids, prefixes, covered) in [
            (&[][..], &[][..], false),
            (&[], &["arena-"], true),
            (&[], &["arena-1", "arena-2"], true),
            (&[], &["arena-1", "room-"], false),
            // Selects more than the scope has.
            (&[], &["aren"], false),
            (&[], &[""], false),
            (&["arena-1"], &[], true),
            (&["arena-1"], &["room-"], true),
            (&["arena-1", "room-1"], &[], false),
            // Selects nothing, but names an id out of scope.
            (&["room-1"], &["arena-"], false),
        ] {
            assert_eq!(part.covers(ids, prefixes, &[]), covered, "{ids:?} {prefixes:?}");
            assert_eq!(part.covers(ids, prefixes, &["Room"]), covered, "{ids:?} {prefixes:?}");
        }
        let rooms = scope(None, Some(&["Room", "Player"]));
        for (types, covered) in
            [(&[][..], false), (&["Room"], true), (&["Player", "Room"], true), (&["Room", "Quest"], false)]
        {
            assert_eq!(rooms.covers(&["x"], &[], types), covered, "{types:?}");
        }
        let both = scope(Some(&["arena-"]), Some(&["Room"]));
        assert!(both.covers(&["arena-1"], &[], &["Room"]));
        assert!(!both.covers(&["arena-1"], &[], &[]) && !both.covers(&[], &[], &["Room"]));
    }
}
