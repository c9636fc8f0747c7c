// A tiny game loop: a quest that two servers change at once, a player who walks into a room, and a
// subscription that prints what happens. Run it against a service with
// `node dist/examples/quest.js aethyr://127.0.0.1:50051`.
import { EventStore, type Fold, MemoryCheckpoints } from "@aethyr/event-store";

interface Quest {
  name: string;
  steps: string[];
}

const quests: Fold<Quest> = {
  aggregateType: "Quest",
  initial: () => ({ name: "", steps: [] }),
  apply(quest, event) {
    switch (event.eventType) {
      case "QuestBegun":
        return { ...quest, name: event.data.name };
      case "StepDone":
        return { ...quest, steps: [...quest.steps, event.data.step] };
      default:
        return quest;
    }
  },
  schemaVersion: 1,
  snapshot: (quest) => quest,
};

/** A step is done once, whichever server comes first. */
function doStep(store: EventStore, id: string, step: string): Promise<unknown> {
  return store.update(id, quests, (quest) => {
    return quest.steps.includes(step) ? [] : [{ eventType: "StepDone", data: { step } }];
  });
}

export async function play(address: string, print: (line: string) => void = console.log): Promise<void> {
  await using store = new EventStore(address);
  const game = `${Date.now()}-${process.pid}`;
  const [quest, room, player] = [`quest-${game}`, `room-${game}`, `player-${game}`];

  await store.append(
    { aggregateId: quest, aggregateType: "Quest", eventType: "QuestBegun", data: { name: "The Lost Sword" } },
    { expect: "new" },
  );
  // Two servers at once: the one that comes second decides again.
  await Promise.all([doStep(store, quest, "find the map"), doStep(store, quest, "find the map")]);
  await Promise.all([doStep(store, quest, "find the key"), doStep(store, quest, "open the door")]);
  const { state, sequence } = await store.fold(quest, quests);
  print(`${state.name}: ${state.steps.length} steps, ${sequence} events`);

  await store.world.execute(
    [
      { createRoom: { id: room, name: "Armoury", description: "Rusty, and out of swords." } },
      { createPlayer: { id: player, name: "Aldo" } },
      { updateGameObjectContainer: { id: player, containerId: room } },
    ],
    { actor: "quest.ts" },
  );
  const aldo = await store.world.getPlayer(player);
  const armoury = await store.world.getRoom(room);
  print(`${aldo.object.name} is in: ${armoury.object.name}. ${armoury.description}`);

  const filter = { aggregateIdPrefixes: [quest, player] };
  const subscription = store.subscribe("printer", new MemoryCheckpoints(), { filter });
  for await (const event of subscription) {
    print(`${event.sequenceNumber} ${event.eventType}`);
    if (event.aggregateId === player && event.eventType === "GameObjectContainerUpdated") break;
  }
}

const [address] = process.argv.slice(2);
if (address !== undefined) await play(address);
