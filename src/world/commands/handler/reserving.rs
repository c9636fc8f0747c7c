//! Reserves the names of the players that exist, before names can change.
//!
//! Needed when names become unique, and after they were not for some time: then players have names
//! without a reservation, and reservations are of players that no longer have the name.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Handler;
use crate::{
    error::{FailedPrecondition, StoreError},
    event::{AggregateId, ContentDigest, EventId, SequenceNumber},
    progress::Progress,
    store::{AggregateFilter, Append, EventStore, Origin},
    world::{
        commands::{
            names::{Reservation, name_of},
            planning::byte_count,
        },
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

/// The size of the events of one append, unless a single reservation needs more: names that were
/// not unique may be as long as any event.
const APPEND_BYTES_MAX: usize = 4 << 20;

/// The numbers of names and of players with one name that an error lists. The first is also that of
/// the damaged players that are reported.
const NAMED_MAX: usize = 100;
const PLAYERS_MAX: usize = 5;

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

impl ReservingError {
    /// Returns whether no further attempt of this process can succeed.
    pub fn is_final(&self) -> bool {
        use FailedPrecondition::EventSourcingDisabled;
        let Self::World(WorldError::Store(StoreError::Precondition(why))) = self else { return false };
        matches!(why, EventSourcingDisabled { .. })
    }
}

/// Players that share names, although names are to be unique. The text has no names, because those
/// are data of events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "world.player_names.unique is {}, and players share names: {}; rename or delete some of them, or set it \
     to off",
    unique.name(),
    Listed(players)
)]
pub struct SharedNames {
    /// The rule by which the names are the same.
    pub unique: UniqueNames,
    /// The players of each name.
    pub players: Vec<Vec<AggregateId>>,
}

struct Listed<'n>(&'n [Vec<AggregateId>]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, players) in self.0.iter().take(NAMED_MAX).enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            // As `{:?}`, so that an id shows no control sequences.
            let listed = players.iter().take(PLAYERS_MAX).map(|id| format!("{id:?}"));
            f.write_str(&listed.collect::<Vec<_>>().join(", "))?;
            if let Some(more) = players.len().checked_sub(PLAYERS_MAX).filter(|more| *more > 0) {
                write!(f, " and {more} more")?;
            }
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

/// The players that exist, as far as their names matter.
#[derive(Default)]
struct Players {
    /// Those that have a name, by the reservation of the name.
    named: BTreeMap<AggregateId, Vec<(AggregateId, String)>>,
    /// Those that are damaged. Their names are not known.
    damaged: BTreeSet<AggregateId>,
}

impl Handler {
    /// Returns whether the names of all players are reserved, or need not be.
    pub fn player_names_are_reserved(&self) -> bool {
        self.names.are_reserved()
    }

    /// Reserves the name of each player, unless names need not be unique. After that, names can
    /// change. Ends early when `given_up` is cancelled.
    ///
    /// # Errors
    /// Returns an error if players share a name, or if something cannot be read or written.
    pub async fn reserve_player_names(&self, given_up: &CancellationToken) -> Result<(), ReservingError> {
        let unique = self.names.unique;
        if self.names.are_reserved() {
            return Ok(());
        }
        // Without this, all players would be read for nothing.
        self.source.store.writes_taken().map_err(WorldError::from)?;
        let (source, given_up) = (self.source.clone(), given_up.clone());
        let corrections = self.in_a_place(move || Ok(corrections(&source, unique, &given_up)));
        let mut corrections = corrections.await??;
        let count = corrections.len();
        while !corrections.is_empty() {
            let append = next_append(&mut corrections)?;
            self.source.store.append_here(append, Origin::default()).await.map_err(WorldError::from)?;
        }
        if count > 0 {
            info!(count, rule = unique.name(), "reserved the names of players");
        }
        self.names.set_reserved();
        Ok(())
    }
}

/// Removes as many corrections as one append can make, at least one, and returns that append.
fn next_append(corrections: &mut VecDeque<Correction>) -> Result<Append, WorldError> {
    let mut append = Append { events: Vec::new(), expected: Vec::new() };
    let mut bytes = 0usize;
    while append.expected.len() < CHANGES_MAX
        && let Some(correction) = corrections.pop_front()
    {
        let mut events = Vec::with_capacity(correction.events.len());
        for event in &correction.events {
            let event = event.encode(EventId::random(), correction.id.clone());
            let event = event.map_err(|error| StoreError::invalid("name", error.to_string()))?;
            let digest = ContentDigest::of(&event);
            events.push((event, digest));
        }
        bytes = events.iter().fold(bytes, |bytes, (event, _)| bytes.saturating_add(byte_count(event)));
        if bytes > APPEND_BYTES_MAX && !append.events.is_empty() {
            corrections.push_front(correction);
            break;
        }
        append.events.extend(events);
        append.expected.push((correction.id, correction.last));
    }
    Ok(append)
}

/// Compares the names of all players with the reservations. May block on disk I/O.
fn corrections(
    source: &AggregateSource,
    unique: UniqueNames,
    given_up: &CancellationToken,
) -> Result<VecDeque<Correction>, ReservingError> {
    source.store.admit_read().map_err(WorldError::from)?;
    let Players { mut named, damaged } = players(source, unique, given_up)?;
    let of_one_name =
        |players: &Vec<(AggregateId, String)>| players.iter().map(|(id, _)| id.clone()).collect();
    let shared: Vec<_> = named.values().filter(|players| players.len() > 1).map(of_one_name).collect();
    if !shared.is_empty() {
        return Err(SharedNames { unique, players: shared }.into());
    }
    let mut corrections = VecDeque::new();
    let filter = AggregateFilter {
        aggregate_type: player_name::AGGREGATE_TYPE.to_owned(),
        prefix: player_name::id_prefix(unique).unwrap_or_default(),
        snapshot_due: false,
    };
    each_aggregate(&source.store, &filter, given_up, |id| {
        let Reservation { last, holder, name } = stored_reservation(&source.store, id)?;
        let player = named.remove(id).and_then(|players| players.into_iter().next());
        // A damaged player keeps its name, so that a repair finds it free.
        let keeps = player.is_none() && holder.as_ref().is_some_and(|holder| damaged.contains(holder));
        if !keeps && player.as_ref().map(|(id, _)| id) != holder.as_ref() {
            corrections.push_back(Correction {
                id: id.clone(),
                last,
                events: replacing(holder, name, player),
            });
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

/// Reads a reservation. If its last event cannot be read, nobody has the name, so that the player
/// that does have it gets it again.
fn stored_reservation(store: &EventStore, id: &AggregateId) -> Result<Reservation, WorldError> {
    match Reservation::load(store, id) {
        Err(WorldError::Store(StoreError::Damaged(why))) => {
            warn!(reservation = %id, %why, "the reservation of a player's name cannot be read");
            Ok(Reservation { last: replay::last_sequence(store, id)?, holder: None, name: String::new() })
        }
        loaded => loaded,
    }
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

/// Reads all players.
fn players(
    source: &AggregateSource,
    unique: UniqueNames,
    given_up: &CancellationToken,
) -> Result<Players, WorldError> {
    let aggregate_type = Kind::Player.name();
    let count = source.store.history().index.figures().1.aggregate_types.get(aggregate_type).copied();
    let mut progress =
        Progress::new("checking the names of players", "players", 0, count.unwrap_or_default());
    let (mut players, mut done) = (Players::default(), 0u64);
    let filter = AggregateFilter { aggregate_type: aggregate_type.to_owned(), ..Default::default() };
    each_aggregate(&source.store, &filter, given_up, |id| {
        done = done.saturating_add(1);
        progress.reached(done);
        let state = match replay::load_now(source, id) {
            Ok(loaded) => loaded.state,
            Err(error @ (WorldError::Damaged(_) | WorldError::Store(StoreError::Damaged(_)))) => {
                if players.damaged.len() < NAMED_MAX {
                    warn!(player = %id, %error, "the name of a damaged player is not known");
                }
                players.damaged.insert(id.clone());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let name = state.as_ref().and_then(|state| name_of(&state.aggregate));
        if let Some(name) = name
            && let Some(reservation) = player_name::reservation(unique, name)
        {
            players.named.entry(reservation).or_default().push((id.clone(), name.to_owned()));
        }
        Ok(())
    })?;
    Ok(players)
}

fn each_aggregate(
    store: &EventStore,
    filter: &AggregateFilter,
    given_up: &CancellationToken,
    mut visit: impl FnMut(&AggregateId) -> Result<(), WorldError>,
) -> Result<(), WorldError> {
    let mut after: Option<AggregateId> = None;
    loop {
        let page = store.aggregates(filter, after.as_ref(), PAGE)?;
        for (id, _) in &page.aggregates {
            if given_up.is_cancelled() {
                return Err(WorldError::GivenUp);
            }
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
    use std::sync::Arc;

    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::{
        event::{Content, NewEvent},
        sequencer::tests::{Running, in_folder, one_event, start},
        store::tests::{damage_log, local_store},
        world::history::states::StateStore,
    };

    /// A player whose first event has its class and its name.
    fn player(id: &str, class: &str, name: &str) -> Append {
        let Append { mut events, expected } = one_event(id);
        for (event, digest) in &mut events {
            let content = Content::Json(format!("{{\"type\":{class:?},\"name\":{name:?}}}"));
            let (aggregate_type, event_type) = (Kind::Player.name().into(), "GameObjectCreated".into());
            *event = NewEvent { aggregate_type, event_type, content, ..event.clone() };
            *digest = ContentDigest::of(event);
        }
        Append { events, expected }
    }

    fn source(folder: &TempDir, running: &Running) -> AggregateSource {
        let states = StateStore::start(folder.path().join("states"));
        AggregateSource { store: Arc::new(local_store(running)), states }
    }

    fn found(source: &AggregateSource) -> Result<VecDeque<Correction>, ReservingError> {
        corrections(source, UniqueNames::Exact, &CancellationToken::new())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_player_or_a_reservation_that_cannot_be_read_blocks_no_name_of_others() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let source = source(&folder, &running);
        for (id, class, name) in [("a", "ClassOfA", "Alice"), ("b", "ClassOfB", "Bob")] {
            source.store.append(player(id, class, name)).await.unwrap();
        }
        let mut first = found(&source).unwrap();
        assert_eq!(first.len(), 2);
        source.store.append(next_append(&mut first).unwrap()).await.unwrap();
        assert!(found(&source).unwrap().is_empty());
        // The player keeps its name.
        damage_log(&folder, "ClassOfA");
        assert!(found(&source).unwrap().is_empty());
        // The last one with the name is the reservation. Its player gets it again.
        damage_log(&folder, "Bob");
        let mut again = found(&source).unwrap();
        let Append { events, expected } = next_append(&mut again).unwrap();
        let bob = player_name::reservation(UniqueNames::Exact, "Bob").unwrap();
        assert_eq!((events.len(), &*events[0].0.event_type), (1, "PlayerNameReserved"));
        assert_eq!(expected, [(bob, SequenceNumber(1))]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_check_of_all_players_ends_when_the_service_closes() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let source = source(&folder, &running);
        source.store.append(player("a", "Player", "Alice")).await.unwrap();
        let closing = CancellationToken::new();
        closing.cancel();
        let ended = corrections(&source, UniqueNames::Exact, &closing);
        assert!(matches!(ended, Err(ReservingError::World(WorldError::GivenUp))));
    }

    #[test]
    fn only_disabled_event_sourcing_makes_a_further_attempt_useless() {
        let of = |error: StoreError| ReservingError::World(error.into());
        let file = std::path::PathBuf::from("server.yml");
        assert!(of(FailedPrecondition::EventSourcingDisabled { file }.into()).is_final());
        assert!(!of(FailedPrecondition::Fenced.into()).is_final());
        assert!(!of(StoreError::OutcomeUnknown).is_final());
    }

    fn ids(ids: &[&str]) -> Vec<AggregateId> {
        ids.iter().map(|id| AggregateId::new(id).unwrap()).collect()
    }

    #[test]
    fn players_that_share_names_are_listed_within_bounds_and_without_the_names() {
        let players = vec![ids(&["p-1", "p-2"]), ids(&["a", "b", "c", "d", "e", "f", "g"])];
        let shared = SharedNames { unique: UniqueNames::Folded, players };
        assert_eq!(
            shared.to_string(),
            "world.player_names.unique is folded, and players share names: \"p-1\", \"p-2\"; \"a\", \"b\", \
             \"c\", \"d\", \"e\" and 2 more; rename or delete some of them, or set it to off"
        );
        let many = vec![ids(&["p", "q"]); NAMED_MAX + 7];
        let shared = SharedNames { unique: UniqueNames::Exact, players: many };
        assert!(shared.to_string().contains("; and 7 more names; rename"), "{shared}");
    }

    #[test]
    fn the_reservations_of_long_names_are_spread_over_several_appends() {
        let correction = |number: usize, bytes: usize| {
            let player_id = AggregateId::new(&format!("p-{number}")).unwrap();
            let name = "x".repeat(bytes);
            let events = vec![
                NameEvent::PlayerNameReleased { name: name.clone(), player_id: player_id.clone() },
                NameEvent::PlayerNameReserved { name, player_id },
            ];
            let id = AggregateId::new(&format!("aethyr:player-name:exact:{number}")).unwrap();
            Correction { id, last: SequenceNumber(7), events }
        };
        let sizes = |mut corrections: VecDeque<Correction>| {
            let mut sizes = Vec::new();
            while !corrections.is_empty() {
                let append = next_append(&mut corrections).unwrap();
                assert_eq!(append.events.len(), 2 * append.expected.len());
                sizes.push(append.expected.len());
            }
            sizes
        };
        // Two events of 950 kB each: two of them would fit into one append, three would not.
        assert_eq!(sizes((0..5).map(|number| correction(number, 950_000)).collect()), [2, 2, 1]);
        // One that is larger than the limit is stored alone.
        assert_eq!(sizes((0..2).map(|number| correction(number, 3_000_000)).collect()), [1, 1]);
        assert_eq!(sizes((0..450).map(|number| correction(number, 10)).collect()), [200, 200, 50]);
    }
}
