//! Encodes the responses of the game world.
//!
//! It only translates. What a response contains is decided by the world.

use std::sync::atomic::Ordering;

use super::json;
use crate::{
    grpc::{event_store::encode::timestamp, wire as store, wire::world as wire},
    store::StoredIn,
    world::{
        commands::executed::{CommandResult, Executed},
        history::{changes::Change, difference::ObjectDiff, entries::HistoryEntry, replay::AggregateState},
        model::{aggregate::Aggregate, game_object::GameObject, room::LONG_DESC},
        read_models::{
            dangling_references::DanglingReferences,
            lists::{FoundPlayer, Listed},
            rebuild::{Finding, RebuildPhase, RebuildProgress, Report},
        },
    },
};

pub(super) fn executed(executed: Executed) -> wire::ExecuteCommandsResponse {
    let stored_in = match executed.stored_in {
        None => store::StoredIn::Unspecified,
        Some(StoredIn::LocalLog) => store::StoredIn::LocalLog,
        Some(StoredIn::Immudb(_)) => store::StoredIn::Immudb,
    };
    wire::ExecuteCommandsResponse {
        results: executed.results.into_iter().map(result).collect(),
        stored_in: stored_in.into(),
        immudb_tx: match executed.stored_in {
            Some(StoredIn::Immudb(tx)) => tx.unwrap_or(0),
            Some(StoredIn::LocalLog) | None => 0,
        },
    }
}

fn result(result: CommandResult) -> wire::CommandResult {
    let events = result.events.into_iter().map(|event| wire::CommandEvent {
        event_id: event.id.to_string(),
        aggregate_id: event.aggregate_id.to_string(),
        event_type: event.event_type.to_string(),
        sequence_number: event.sequence.0,
        position: event.position.0,
    });
    let DanglingReferences { exits, players } = result.dangling_references;
    wire::CommandResult {
        command_id: result.command_id,
        events: events.collect(),
        already_executed: result.already_executed,
        exits_to_room: exits
            .into_iter()
            .map(|(room_id, direction)| wire::ExitToDeletedRoom { room_id, direction })
            .collect(),
        players_in_room: players,
    }
}

pub(super) fn game_object(state: &AggregateState) -> wire::GameObject {
    let GameObject { id, class, generic, container_id, attributes, inventory, equipment, deleted } =
        state.aggregate.object();
    let carried = inventory.iter().map(|(item, position)| wire::InventoryItem {
        item_id: item.to_string(),
        position: position.as_ref().map(json::to_wire),
    });
    let mut attributes = json::map_to_wire(attributes);
    // The description of a room is found under this name, too.
    if let Aggregate::Room(room) = &state.aggregate
        && !room.description.is_empty()
    {
        attributes.insert(LONG_DESC.to_owned(), json::to_wire(&room.description.as_str().into()));
    }
    wire::GameObject {
        id: id.to_string(),
        aggregate_type: state.aggregate.kind().name().to_owned(),
        r#type: class.clone(),
        name: state.aggregate.object().name().to_owned(),
        generic: generic.clone(),
        container_id: container_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        attributes,
        inventory: carried.collect(),
        equipment: equipment.iter().map(|(slot, item)| (slot.clone(), item.to_string())).collect(),
        deleted: *deleted,
        sequence_number: state.sequence,
        created_at: Some(timestamp(state.created_at)),
        updated_at: Some(timestamp(state.updated_at)),
    }
}

/// Returns `None` if the object is not a player.
pub(super) fn player(state: &AggregateState) -> Option<wire::Player> {
    let Aggregate::Player(player) = &state.aggregate else { return None };
    let hash = player.password_hash.as_ref().map(|hash| hash.reveal().to_owned());
    Some(wire::Player {
        object: Some(game_object(state)),
        password_hash: hash.unwrap_or_default(),
        admin: player.admin,
        redacted: false,
    })
}

/// Returns `None` if the object is not a room.
pub(super) fn room(state: &AggregateState) -> Option<wire::Room> {
    let Aggregate::Room(room) = &state.aggregate else { return None };
    Some(wire::Room {
        object: Some(game_object(state)),
        description: room.description.clone(),
        exits: room.exits.iter().map(|(way, target)| (way.clone(), target.to_string())).collect(),
    })
}

pub(super) fn listed(listed: Listed) -> wire::ListedObject {
    wire::ListedObject {
        id: listed.id,
        aggregate_type: listed.aggregate_type,
        r#type: listed.class,
        name: listed.name,
        generic: listed.generic,
        container_id: listed.container_id.unwrap_or_default(),
        attributes: json::map_to_wire(&listed.attributes),
        depth: listed.depth,
    }
}

pub(super) fn found_player(found: FoundPlayer) -> wire::FoundPlayer {
    let FoundPlayer { id, name, admin, container_id } = found;
    wire::FoundPlayer { id, name, admin, container_id: container_id.unwrap_or_default() }
}

pub(super) fn entry(entry: HistoryEntry) -> wire::HistoryEntry {
    wire::HistoryEntry {
        event_id: entry.id.to_string(),
        event_type: entry.event_type,
        sequence_number: entry.sequence.0,
        position: entry.position.0,
        recorded_at: Some(timestamp(entry.recorded_at)),
        actor: entry.actor,
        causation_id: entry.causation_id,
        correlation_id: entry.correlation_id,
        changes: entry.changes.into_iter().map(change).collect(),
        passed_over: entry.passed_over,
        recorded_by: entry.recorded_by.to_string(),
    }
}

fn change(change: Change) -> wire::Change {
    wire::Change {
        field: change.field,
        before: change.before.as_ref().map(json::to_wire),
        after: change.after.as_ref().map(json::to_wire),
    }
}

pub(super) fn object_diff(diff: ObjectDiff) -> wire::ObjectDiff {
    wire::ObjectDiff {
        id: diff.id.to_string(),
        aggregate_type: diff.kind.name().to_owned(),
        created: diff.created,
        deleted: diff.deleted,
        changes: diff.changes.into_iter().map(change).collect(),
        since_sequence: diff.from.0,
        until_sequence: diff.to.0,
        problem: diff.problem.unwrap_or_default(),
    }
}

pub(super) fn progress(watched: &RebuildProgress) -> wire::RebuildWorldStateResponse {
    let ((step, done), total) = (watched.step(), watched.total.load(Ordering::Relaxed));
    let step = match step {
        RebuildPhase::Replaying => wire::RebuildStep::Replaying,
        RebuildPhase::Projecting => wire::RebuildStep::Projecting,
        RebuildPhase::Comparing => wire::RebuildStep::Comparing,
        RebuildPhase::Swapping => wire::RebuildStep::Swapping,
    };
    let progress = wire::RebuildProgress { step: step.into(), done: done.min(total), total };
    let content = wire::rebuild_world_state_response::Content::Progress(progress);
    wire::RebuildWorldStateResponse { content: Some(content) }
}

pub(super) fn report(report: Report) -> wire::RebuildWorldStateResponse {
    let findings = |named: Vec<Finding>| {
        let named = named.into_iter().map(|finding| wire::Finding {
            aggregate_id: finding.aggregate_id,
            sequence_number: finding.sequence.0,
            problem: finding.problem,
        });
        named.collect()
    };
    let report = wire::RebuildReport {
        aggregates: report.aggregates,
        events: report.events,
        damaged_total: report.damaged.count,
        damaged: findings(report.damaged.named),
        warnings_total: report.warnings.count,
        warnings: findings(report.warnings.named),
        differences: report.differences,
        read_model_position: report.reached.0,
        seconds: report.took.as_secs_f64(),
        repaired_total: report.repaired.count,
        repaired: findings(report.repaired.named),
    };
    let content = wire::rebuild_world_state_response::Content::Report(report);
    wire::RebuildWorldStateResponse { content: Some(content) }
}
