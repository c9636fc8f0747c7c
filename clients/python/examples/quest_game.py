#!/usr/bin/env python3
"""A tiny game: a quest that two players want, a room and a player of the world, and a log that follows.

Usage: quest_game.py [aethyr://HOST:PORT]. Without an address it starts a service of its own.
"""

from __future__ import annotations

import sys
import threading
import uuid
from concurrent import futures
from typing import Any, Dict, List

from aethyr_event_store import Client, Event, Filter, MemoryCheckpoints, NewEvent, attributes
from aethyr_event_store.testing import LocalService


def apply(quest: Dict[str, Any], event: Event) -> Dict[str, Any]:
    """The state of a quest after an event."""
    if event.event_type == "QuestOffered":
        quest["name"] = event.data["name"]
    elif event.event_type == "QuestAccepted":
        quest["player"] = event.data["player"]
    return quest


def accept(client: Client, quest_id: str, player: str) -> bool:
    """Lets a player accept a quest, unless another one was faster."""

    def decide(quest: Dict[str, Any], sequence: int) -> List[NewEvent]:
        if quest.get("player"):
            return []
        return [NewEvent("QuestAccepted", {"player": player})]

    return client.update(quest_id, decide, initial={}, apply=apply) is not None


def play(client: Client) -> List[str]:
    """One round of the game. Returns the lines of the log."""
    world = uuid.uuid4().hex[:8]  # So that the game can be played again in the same store.
    clearing, alice, sword, quest = (f"{name}-{world}" for name in ("clearing", "alice", "sword", "quest"))
    lines: List[str] = []

    subscription = client.subscribe("log", MemoryCheckpoints(), Filter(aggregate_id_prefix=quest))

    def follow() -> None:
        for event in subscription:
            lines.append(f"{event.sequence_number} {event.event_type} {event.data}")
            if event.event_type == "QuestEnded":
                subscription.close()

    log = threading.Thread(target=follow)
    log.start()

    client.execute(
        [
            {"create_room": {"id": clearing, "name": "Forest Clearing", "description": "Moss."}},
            {"create_player": {"id": alice, "name": "Alice"}},
            {"update_game_object_container": {"id": alice, "container_id": clearing}},
            {"create_game_object": {"id": sword, "type": "Weapon", "container_id": clearing}},
        ],
        actor="wizard",
    )
    client.append(NewEvent("QuestOffered", {"name": "The Lost Sword"}, quest, "Quest"), expect="new")

    # Two players want the quest at the same time. One of them gets it.
    with futures.ThreadPoolExecutor() as players:
        accepted = list(players.map(lambda name: accept(client, quest, name), ("alice", "bob")))
    assert sorted(accepted) == [False, True], accepted

    client.execute({"add_item_to_inventory": {"id": alice, "item_id": sword}}, actor="alice")
    client.execute({"update_game_object_attribute": {"id": sword, "key": "found_by", "value": "Alice"}})
    state, sequence = client.fold(quest, {}, apply)
    client.append(NewEvent("QuestEnded", {"by": state["player"]}, quest), expect=sequence)
    log.join()

    found = client.get_game_object(sword)
    assert found.container_id == alice and attributes(found)["found_by"] == "Alice"
    for entry in client.get_history(sword):
        lines.append(f"{entry.event_type} by {entry.actor or 'nobody'}")
    return lines


def main() -> None:
    if len(sys.argv) > 1:
        with Client(sys.argv[1]) as client:
            print("\n".join(play(client)))
    else:
        with LocalService() as service, service.client() as client:
            print("\n".join(play(client)))


if __name__ == "__main__":
    main()
