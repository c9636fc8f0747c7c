//! Reserves the names of the players that exist, before names can change.
//!
//! Needed when names become unique, and after they were not for some time: then players have names
//! without a reservation, and reservations are of players that no longer have the name.

use std::{collections::BTreeMap, fmt};

use tracing::info;

use super::Handler;
use crate::{
    error::StoreError,
    event::{AggregateId, ContentDigest, EventId, SequenceNumber},
    store::{AggregateFilter, Append, EventStore, Origin},
    world::{
        commands::names::{Reservation, name_of},
        error::WorldError,
        history::replay::{self, AggregateSource},
        model::{
            aggregate::Kind,
            player_name::{self, NameEvent},
        },
        settings::UniqueNames,
    },
};

/// The number of aggregates looked up at a time.
const PAGE: usize = 1000;

/// The number of reservations that one append changes, each with two events at most.
const CHANGES_MAX: usize = 200;

/// The number of names that an error lists.
const NAMED_MAX: usize = 100;

/// Why names are not reserved.
#[derive(Debug, thiserror::Error)]
pub enum ReservingError {
    /// Something cannot be read or written at present.
    #[error(transparent)]
    World(#[from] WorldError),
    /// Players share names.
    #[error(transparent)]
    Shared(#[from] SharedNames),
}

/// Names of several players, although names are to be unique.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "world.player_names.unique is {}, and players share names: {}; rename or delete some of them, or set it \
     to off",
    unique.name(),
    Listed(names)
)]
pub struct SharedNames {
    /// The rule by which the names are the same.
    pub unique: UniqueNames,
    /// The players of each name, with the names as they have them.
    pub names: Vec<Vec<(AggregateId, String)>>,
}

struct Listed<'n>(&'n [Vec<(AggregateId, String)>]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, players) in self.0.iter().take(NAMED_MAX).enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            // As `{:?}`, so that a name shows no control sequences.
            let players = players.iter().map(|(id, name)| format!("{name:?} of {id:?}"));
            f.write_str(&players.collect::<Vec<_>>().join(", "))?;
        }
        match self.0.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more names"),
        }
    }
}

/// What has to be stored for one reservation.
struct Correction {
    id: AggregateId,
    last: SequenceNumber,
    events: Vec<NameEvent>,
}

impl Handler {
    /// Reserves the name of each player, unless names need not be unique. After that, names can
    /// change.
    ///
    /// # Errors
    /// Returns an error if players share a name, or if something cannot be read or written.
    pub async fn reserve_player_names(&self) -> Result<(), ReservingError> {
        let unique = self.names.unique;
        if self.names.are_reserved() {
            return Ok(());
        }
        // Without this, all players would be read for nothing.
        self.source.store.writes_taken().map_err(WorldError::from)?;
        let source = self.source.clone();
        let mut corrections = self.in_a_place(move || Ok(corrections(&source, unique))).await??;
        let count = corrections.len();
        while !corrections.is_empty() {
            let rest = corrections.split_off(corrections.len().min(CHANGES_MAX));
            let append = append_of(std::mem::replace(&mut corrections, rest))?;
            self.source.store.append_here(append, Origin::default()).await.map_err(WorldError::from)?;
        }
        if count > 0 {
            info!(count, rule = unique.name(), "reserved the names of players");
        }
        self.names.set_reserved();
        Ok(())
    }
}

fn append_of(corrections: Vec<Correction>) -> Result<Append, WorldError> {
    let (mut events, mut expected) = (Vec::new(), Vec::new());
    for Correction { id, last, events: its } in corrections {
        for event in its {
            let event = event.encode(EventId::random(), id.clone());
            let event = event.map_err(|error| StoreError::invalid("name", error.to_string()))?;
            let digest = ContentDigest::of(&event);
            events.push((event, digest));
        }
        expected.push((id, last));
    }
    Ok(Append { events, expected })
}

/// Compares the names of all players with the reservations. May block on disk I/O.
fn corrections(source: &AggregateSource, unique: UniqueNames) -> Result<Vec<Correction>, ReservingError> {
    source.store.admit_read().map_err(WorldError::from)?;
    let mut named = players_by_reservation(source, unique)?;
    let shared: Vec<_> = named.values().filter(|players| players.len() > 1).cloned().collect();
    if !shared.is_empty() {
        return Err(SharedNames { unique, names: shared }.into());
    }
    let mut corrections = Vec::new();
    let prefix = player_name::id_prefix(unique).unwrap_or_default();
    each_aggregate(&source.store, player_name::AGGREGATE_TYPE, &prefix, |id| {
        let Reservation { last, holder, name } = Reservation::load(&source.store, id)?;
        let player = named.remove(id).and_then(|players| players.into_iter().next());
        if player.as_ref().map(|(id, _)| id) != holder.as_ref() {
            corrections.push(Correction { id: id.clone(), last, events: replacing(holder, name, player) });
        }
        Ok(())
    })?;
    corrections.extend(named.into_iter().map(|(id, players)| Correction {
        id,
        last: SequenceNumber(0),
        events: replacing(None, String::new(), players.into_iter().next()),
    }));
    Ok(corrections)
}

/// Returns the events by which another player, or none, has a name. `name` is that of the holder.
fn replacing(
    holder: Option<AggregateId>,
    name: String,
    player: Option<(AggregateId, String)>,
) -> Vec<NameEvent> {
    let released = holder.map(|player_id| NameEvent::PlayerNameReleased { name, player_id });
    let reserved = player.map(|(player_id, name)| NameEvent::PlayerNameReserved { name, player_id });
    released.into_iter().chain(reserved).collect()
}

/// Returns the players that have a name, by the reservation of the name. A damaged player has none.
fn players_by_reservation(
    source: &AggregateSource,
    unique: UniqueNames,
) -> Result<BTreeMap<AggregateId, Vec<(AggregateId, String)>>, WorldError> {
    let mut named: BTreeMap<AggregateId, Vec<(AggregateId, String)>> = BTreeMap::new();
    each_aggregate(&source.store, Kind::Player.name(), "", |id| {
        let state = match replay::load_now(source, id) {
            Ok(loaded) => loaded.state,
            Err(WorldError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        let name = state.as_ref().and_then(|state| name_of(&state.aggregate));
        if let Some(name) = name
            && let Some(reservation) = player_name::reservation(unique, name)
        {
            named.entry(reservation).or_default().push((id.clone(), name.to_owned()));
        }
        Ok(())
    })?;
    Ok(named)
}

fn each_aggregate(
    store: &EventStore,
    aggregate_type: &str,
    prefix: &str,
    mut visit: impl FnMut(&AggregateId) -> Result<(), WorldError>,
) -> Result<(), WorldError> {
    let (aggregate_type, prefix) = (aggregate_type.to_owned(), prefix.to_owned());
    let filter = AggregateFilter { aggregate_type, prefix, snapshot_due: false };
    let mut after: Option<AggregateId> = None;
    loop {
        let page = store.aggregates(&filter, after.as_ref(), PAGE)?;
        for (id, _) in &page.aggregates {
            visit(id)?;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn player(id: &str, name: &str) -> (AggregateId, String) {
        (AggregateId::new(id).unwrap(), name.to_owned())
    }

    #[test]
    fn shared_names_are_listed_with_their_players() {
        let names = vec![
            vec![player("p-1", "Alice"), player("p-2", "ALICE")],
            vec![player("p-3", "Bob\u{1b}"), player("p-4", "bob\u{1b}")],
        ];
        let shared = SharedNames { unique: UniqueNames::Folded, names };
        assert_eq!(
            shared.to_string(),
            "world.player_names.unique is folded, and players share names: \"Alice\" of \"p-1\", \"ALICE\" of \
             \"p-2\"; \"Bob\\u{1b}\" of \"p-3\", \"bob\\u{1b}\" of \"p-4\"; rename or delete some of them, or set \
             it to off"
        );
        let many = vec![vec![player("p", "x"), player("q", "x")]; NAMED_MAX + 7];
        let shared = SharedNames { unique: UniqueNames::Exact, names: many };
        assert!(shared.to_string().contains("; and 7 more names; rename"), "{shared}");
    }
}
