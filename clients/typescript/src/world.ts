// Commands and questions of the game world.
import { randomUUID } from "node:crypto";
import { fromJson, fromJsonString, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate, ValueSchema } from "@bufbuild/protobuf/wkt";
import { Attempts, type CallOptions, type Channel, inCalls } from "./channel.js";
import { type Plain, plain } from "./data.js";
import { checked } from "./errors.js";
import * as commands from "./generated/aethyr/world/v1/commands_pb.js";
import * as service from "./generated/aethyr/world/v1/command_service_pb.js";
import type * as objects from "./generated/aethyr/world/v1/objects_pb.js";
import * as world from "./generated/aethyr/world/v1/world_service_pb.js";

/** A command in the form of the API's JSON, for example `{ createRoom: { id: "room-1", name: "Hall" } }`. */
export type Command = Omit<commands.CommandJson, "expectedSequence" | "expectedSequences"> & {
  expectedSequence?: bigint;
  expectedSequences?: Record<string, bigint>;
};

/** A moment in the history of the world. */
export type Moment = { sequenceNumber: bigint } | { position: bigint } | { time: Date };

export type GameObject = Plain<objects.GameObject>;
/** A player or a room is an object, with what only it has. */
export type Player = Omit<Plain<objects.Player>, "object"> & { object: GameObject };
export type Room = Omit<Plain<objects.Room>, "object"> & { object: GameObject };
export type ExecuteResult = Plain<service.ExecuteCommandsResponse>;

export interface ExecuteOptions extends CallOptions {
  /** For each command that has none of its own. */
  actor?: string;
  correlationId?: string;
  /** Last sequence numbers that the caller has seen; 0 for objects that must not exist. */
  expectedSequences?: Record<string, bigint>;
}

type Listed = AsyncGenerator<Plain<world.ListedObject>, void, undefined>;
type AskOptions = CallOptions & { asOf?: Moment };

/** What `listGameObjects` selects. An object has to match all fields that are set. */
export type ObjectFilter = Partial<Omit<Plain<world.ListGameObjectsRequest>, "pageToken">>;

const EXECUTE = service.CommandService.method.executeCommands;
const ask = world.WorldService.method;

export class World {
  readonly #channel: Channel;

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  /** Executes commands, all or none. Each command without an id gets one before the first attempt. */
  async execute(what: Command | readonly Command[], options: ExecuteOptions = {}): Promise<ExecuteResult> {
    const list = Array.isArray(what) ? (what as readonly Command[]) : [what as Command];
    const request = {
      commands: list.map((command, index) => encode(command, index, options)),
      expectedSequences: options.expectedSequences ?? {},
    };
    return plain(await this.#channel.unary(EXECUTE, request, options, true));
  }

  /** Executes more commands than one call can have, as `appendMany` appends events. */
  async executeMany(
    commands: readonly Command[], correlationId: string, options: ExecuteOptions & { most?: number } = {},
  ): Promise<ExecuteResult[]> {
    const ready = commands.map((command, index) => encode(command, index, { ...options, correlationId }));
    return inCalls(ready, options.most ?? 100, async (part) => (
      plain(await this.#channel.unary(EXECUTE, { commands: [...part] }, options, true))));
  }

  async getGameObject(id: string, options: AskOptions = {}): Promise<GameObject> {
    const answer = await this.#channel.unary(ask.getGameObject, at(id, options), options);
    return plain(answer.gameObject) as GameObject;
  }

  async getPlayer(id: string, options: AskOptions = {}): Promise<Player> {
    return plain(await this.#channel.unary(ask.getPlayer, at(id, options), options)).player as Player;
  }

  async getRoom(id: string, options: AskOptions = {}): Promise<Room> {
    return plain(await this.#channel.unary(ask.getRoom, at(id, options), options)).room as Room;
  }

  /** Players with this name, ignoring the case of ASCII letters. Names need not be unique. */
  async findPlayer(
    name: string, options: CallOptions & { idPrefixes?: string[] } = {},
  ): Promise<Plain<world.FoundPlayer>[]> {
    const request = { name, idPrefixes: options.idPrefixes ?? [] };
    return plain((await this.#channel.unary(ask.findPlayer, request, options)).players);
  }

  /** Objects in the order of their ids, page by page. Lists follow the events within a second. */
  async *listGameObjects(
    filter: ObjectFilter = {}, options: CallOptions = {}): Listed {
    const { attributeValue: value, ...rest } = filter;
    const request = { ...rest, ...(value !== undefined && { attributeValue: fromJson(ValueSchema, value) }) };
    yield* this.#channel.pages(ask.listGameObjects, request, options, (page) => page.gameObjects);
  }

  /** What lies in an object; with `recursive`, each object is followed by its contents. */
  async *listContents(
    containerId: string, options: CallOptions & { recursive?: boolean; pageSize?: number } = {}): Listed {
    const { recursive = false, pageSize = 0 } = options;
    const request = { containerId, recursive, pageSize };
    yield* this.#channel.pages(ask.listContents, request, options, (page) => page.gameObjects);
  }

  /** The events of an object, with what each of them changed. */
  async *getHistory(
    id: string, options: CallOptions & { fromSequence?: bigint; toSequence?: bigint } = {},
  ): AsyncGenerator<Plain<world.HistoryEntry>, void, undefined> {
    const attempts = new Attempts(this.#channel, options, false, true);
    const { fromSequence = 0n, toSequence = 0n } = options;
    const request = { id, fromSequence, toSequence };
    const rest = (): boolean => toSequence === 0n || request.fromSequence <= toSequence;
    for await (const part of this.#channel.resumed(ask.getHistory, request, attempts, rest)) {
      for (const entry of part.entries) {
        attempts.check();
        request.fromSequence = entry.sequenceNumber + 1n;
        yield plain(entry);
      }
    }
  }
}

function encode(command: Command, index: number, options: ExecuteOptions): commands.Command {
  const json = JSON.stringify(command, (_, value) => typeof value === "bigint" ? String(value) : value);
  const message = checked(`commands[${index}]`, () => fromJsonString(commands.CommandSchema, json));
  if (message.commandId === "") command.commandId = message.commandId = randomUUID();
  message.actor ||= options.actor ?? "";
  message.correlationId ||= options.correlationId ?? "";
  return message;
}

type Asked = { id: string; asOf?: MessageInitShape<typeof objects.MomentSchema> };

function at(id: string, { asOf }: AskOptions): Asked {
  if (asOf === undefined) return { id };
  const moment = "time" in asOf ? { case: "time" as const, value: timestampFromDate(asOf.time) }
    : "position" in asOf ? { case: "position" as const, value: asOf.position }
    : { case: "sequenceNumber" as const, value: asOf.sequenceNumber };
  return { id, asOf: { moment } };
}
