//! What a request that reads many aggregates selects, held to the scope of its caller.
//!
//! Nothing is left out silently: a caller whose scope is restricted has to ask for a part of it, so
//! it knows that it gets everything that it asked for.

use tonic::Status;

use super::{Admitted, Forbidden, Principal, Right};

/// The aggregates that a request selects. An empty field selects all of them; an aggregate has to
/// match all fields.
#[derive(Debug, Clone, Default)]
pub(in crate::grpc) struct Selection<'s> {
    /// The id starts with this.
    pub prefix: &'s str,
    /// The id starts with one of these.
    pub prefixes: &'s [String],
    /// The type is one of these.
    pub types: Vec<&'s str>,
}

impl<'s> Selection<'s> {
    /// Checks that everything that a call selects is in the scope of its caller.
    ///
    /// # Errors
    /// Returns an error if it is not.
    pub(in crate::grpc) fn require(&self, call: &Admitted, right: Right) -> Result<(), Status> {
        self.check(&call.principal, right).map_err(|forbidden| forbidden.refuse(call))
    }

    fn check(&self, principal: &Principal, right: Right) -> Result<(), Forbidden> {
        let scope = &principal.identity.scope;
        if scope.is_unrestricted() || scope.covers(&[], &self.all_prefixes(), &self.types) {
            return Ok(());
        }
        Err(Forbidden::Scope(right))
    }

    /// Returns the prefixes of which an id has to have one.
    fn all_prefixes(&self) -> Vec<&'s str> {
        let prefixes = self.prefixes.iter().map(String::as_str);
        if self.prefix.is_empty() {
            return prefixes.collect();
        }
        // Of two prefixes of one id, one begins with the other.
        let both = prefixes.filter_map(|other| {
            if other.starts_with(self.prefix) {
                Some(other)
            } else {
                self.prefix.starts_with(other).then_some(self.prefix)
            }
        });
        let both: Vec<&str> = both.collect();
        if both.is_empty() { vec![self.prefix] } else { both }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::authorization::tests::{caller, scope};

    const SUBSCRIBE: Right = Right::Subscribe;

    fn check(selection: &Selection<'_>, prefixes: &[&str], types: &[&str]) -> Result<(), Forbidden> {
        selection.check(&caller(&[SUBSCRIBE], scope(prefixes, types)), SUBSCRIBE)
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn who_may_name_all_needs_no_filter_and_who_may_not_needs_one_within_the_scope() {
        let (all, out) = (Selection::default(), Err(Forbidden::Scope(SUBSCRIBE)));
        assert_eq!(check(&all, &[], &[]), Ok(()));
        assert_eq!(check(&all, &["arena-"], &[]), out);
        assert_eq!(check(&all, &[], &["Quest"]), out);
        let both = texts(&["arena-1", "player-"]);
        let prefixes = Selection { prefixes: &both, ..Selection::default() };
        assert_eq!(check(&prefixes, &["player-", "arena-"], &[]), Ok(()));
        assert_eq!(check(&prefixes, &["arena-"], &[]), out, "one of the prefixes is out of scope");
        assert_eq!(check(&prefixes, &["player-", "arena-"], &["Quest"]), out, "any type is selected");
        let shorter = Selection { prefix: "aren", ..Selection::default() };
        assert_eq!(check(&shorter, &["arena-"], &[]), out);
        let quests = Selection { prefix: "arena-", types: vec!["Quest"], ..Selection::default() };
        assert_eq!(check(&quests, &["arena-"], &["Quest", "Room"]), Ok(()));
        assert_eq!(check(&quests, &["arena-"], &["Room"]), out);
    }

    #[test]
    fn the_single_prefix_and_the_list_restrict_together() {
        let list = texts(&["arena-1", "arena-22", "player-"]);
        let none: &[String] = &[];
        for (prefix, list, expected) in [
            ("", list.as_slice(), vec!["arena-1", "arena-22", "player-"]),
            ("arena-", list.as_slice(), vec!["arena-1", "arena-22"]),
            ("arena-17", list.as_slice(), vec!["arena-17"]),
            ("room-", list.as_slice(), vec!["room-"]),
            ("room-", none, vec!["room-"]),
            ("", none, vec![]),
        ] {
            let selection = Selection { prefix, prefixes: list, types: Vec::new() };
            assert_eq!(selection.all_prefixes(), expected, "{prefix}");
        }
        let selection = Selection { prefix: "arena-", prefixes: &list, types: Vec::new() };
        assert_eq!(check(&selection, &["arena-"], &[]), Ok(()));
    }
}
