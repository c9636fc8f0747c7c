// The client of the event store: appends, loads, snapshots, reads in the total order and subscriptions.
import { randomUUID } from "node:crypto";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Attempts, type CallOptions, Channel, inCalls, sleep } from "./channel.js";
import * as data from "./data.js";
import type { Data, Filter, NewEvent, Plain, RecordedEvent, Snapshot } from "./data.js";
import { checked, InvalidArgumentError, WrongExpectedSequenceError } from "./errors.js";
import * as pb from "./generated/aethyr/eventstore/v1/event_store_service_pb.js";
import type { StatsResponse } from "./generated/aethyr/eventstore/v1/stats_pb.js";
import { type ClientOptions, Settings } from "./options.js";
import { type CheckpointStore, type SubscribeOptions, Subscription } from "./subscription.js";
import { World } from "./world.js";

const { method } = pb.EventStoreService;

/** The last sequence number that the caller has seen, `new` if the aggregate must not exist, or `any`. */
export type Expected = bigint | "new" | "any";

export interface AppendOptions extends CallOptions {
  /** For the aggregate of all events, or for each of several aggregates by its id. Default `any`. */
  expect?: Expected | Readonly<Record<string, Expected>>;
}

export type AppendResult = Plain<pb.AppendEventsResponse>;

type RangeFields = "fromSequence" | "toSequence" | "limit" | "backwards" | "recordedUntil";
export interface LoadOptions extends CallOptions, Partial<Pick<Plain<pb.LoadEventsRequest>, RangeFields>> {
  /** Starts with the newest snapshot if it has this schema version. */
  snapshotSchemaVersion?: number;
}

export type LoadManyOptions = Omit<LoadOptions, Exclude<RangeFields, "recordedUntil">>;

/** An aggregate with its events. */
export interface Loaded {
  aggregateId: string;
  /** Empty if the aggregate does not exist. */
  aggregateType: string;
  /** 0 if the aggregate does not exist. */
  lastSequence: bigint;
  snapshot: Snapshot | undefined;
  events: RecordedEvent[];
}

/** How the state of an aggregate follows from its events. */
export interface Fold<S> {
  /** Type of aggregates that `update` makes. */
  aggregateType?: string;
  initial: () => S;
  apply: (state: S, event: RecordedEvent) => S;
  /** Version of the form that snapshots have. Without it, no snapshot is loaded. */
  schemaVersion?: number;
  /** What a snapshot holds. With it, `update` saves a snapshot when one is due. */
  snapshot?: (state: S) => unknown;
  /** The state that a snapshot holds. Default: its data. */
  restore?: (data: Data) => S;
}

export interface Folded<S> {
  state: S;
  /** Of the last event. */
  sequence: bigint;
}

/** An event of `update`: the aggregate is the one that is updated, unless another one is named. */
export type DecidedEvent = Omit<NewEvent, "aggregateId"> & { aggregateId?: string };

export interface ReadOptions extends CallOptions {
  /** First position, inclusive. */
  fromPosition?: bigint;
  limit?: bigint;
  filter?: Filter;
}

/** A client of the event store. Safe to share; `close` ends its connections. */
export class EventStore implements AsyncDisposable {
  readonly settings: Settings;
  readonly world: World;
  readonly #channel: Channel;
  readonly #subscriptions = new Set<Subscription>();

  constructor(target?: string | ClientOptions, options?: ClientOptions) {
    this.settings = new Settings(target, options);
    this.#channel = new Channel(this.settings);
    this.world = new World(this.#channel);
  }

  /** Appends events, all or none. Each event without an id gets one before the first attempt. */
  async append(events: NewEvent | readonly NewEvent[], options: AppendOptions = {}): Promise<AppendResult> {
    const list = Array.isArray(events) ? (events as readonly NewEvent[]) : [events as NewEvent];
    const request = {
      events: list.map(data.encodeEvent),
      expectedSequences: expectations(list, options.expect ?? "any"),
    };
    return data.plain(await this.#channel.unary(method.appendEvents, request, options, true));
  }

  /**
   * Appends more events than one call can have, in several calls of at most `most` events. All get their
   * ids, and the correlation id, before the first call. If a call fails, those before it are stored: the
   * same objects again go on there.
   */
  async appendMany(
    events: readonly NewEvent[], correlationId: string, options: CallOptions & { most?: number } = {},
  ): Promise<AppendResult[]> {
    for (const event of events) {
      event.eventId ||= randomUUID();
      event.correlationId ||= correlationId;
    }
    return inCalls(events, options.most ?? 500, (part) => this.append(part, options));
  }

  /** Loads the events of an aggregate. An aggregate that does not exist has none. */
  async load(aggregateId: string, options: LoadOptions = {}): Promise<Loaded> {
    const { signal: _, deadline: __, deadlineAt: ___, ...range } = options;
    const { backwards = false, fromSequence = 1n, toSequence = 0n, limit = 0n } = options;
    const request = { aggregateId, ...range, ...common(options) };
    const loaded = nothing(aggregateId);
    const rest = (): boolean => { // Goes on after the last event that arrived.
      const reached = loaded.events.at(-1)?.sequenceNumber ?? (!backwards && loaded.snapshot?.sequenceNumber);
      if (!reached) return true;
      request.fromSnapshot = false;
      request.limit = limit && limit - BigInt(loaded.events.length);
      if (backwards) request.toSequence = reached - 1n;
      else request.fromSequence = reached + 1n;
      const done = backwards ? reached <= (fromSequence || 1n) : toSequence > 0n && reached >= toSequence;
      return !done && (limit === 0n || request.limit > 0n);
    };
    const attempts = new Attempts(this.#channel, options);
    const parts = this.#channel.resumed(method.loadEvents, request, attempts, rest);
    for await (const part of parts) take(loaded, part);
    return loaded;
  }

  /** Loads several aggregates, in the order of their ids in the call. */
  async loadMany(aggregateIds: readonly string[], options: LoadManyOptions = {}): Promise<Loaded[]> {
    const done: Loaded[] = [];
    const attempts = new Attempts(this.#channel, options);
    const request = { aggregateIds: [] as string[], ...common(options) };
    let current: Loaded | undefined;
    const rest = (): boolean => { // An aggregate that is not complete begins again.
      current = undefined;
      request.aggregateIds = aggregateIds.slice(done.length, done.length + 1000);
      return request.aggregateIds.length > 0;
    };
    while (rest()) {
      for await (const part of this.#channel.resumed(method.loadManyEvents, request, attempts, rest)) {
        take(current ??= nothing(part.aggregateId), part);
        if (part.last) done.push(current);
        if (part.last) current = undefined;
      }
    }
    return done;
  }

  /** The state of an aggregate, and the sequence number of its last event. */
  async fold<S>(id: string, fold: Fold<S>, options: CallOptions = {}): Promise<Folded<S>> {
    const version = fold.schemaVersion ?? (fold.snapshot && 0);
    const loaded = await this.load(id, {
      ...options, ...(version !== undefined && { snapshotSchemaVersion: version }),
    });
    const { snapshot, lastSequence: sequence } = loaded;
    const restore = fold.restore ?? ((value: Data) => value as S);
    let state = snapshot ? restore(snapshot.data) : fold.initial();
    for (const event of loaded.events) state = fold.apply(state, event);
    return { state, sequence };
  }

  /**
   * Decides on the state of an aggregate, and appends what was decided if nothing was appended in between.
   * Otherwise it loads and decides again, at most 10 times. Returns undefined if there is nothing to append.
   *
   * After an error with `outcomeUnknown`, the events may be stored. The next update makes new ids, so
   * `decide` has to see in the state what is done already, or set `eventId` itself.
   */
  async update<S>(
    id: string, fold: Fold<S>,
    decide: (state: S, sequence: bigint) => readonly DecidedEvent[] | Promise<readonly DecidedEvent[]>,
    options: CallOptions = {},
  ): Promise<AppendResult | undefined> {
    const call = { signal: options.signal, deadlineAt: new Attempts(this.#channel, options).deadlineAt };
    for (let conflicts = 1; ; conflicts++) {
      const { state, sequence } = await this.fold(id, fold, call);
      const decided = await decide(state, sequence);
      if (decided.length === 0) return undefined;
      const type = fold.aggregateType === undefined ? {} : { aggregateType: fold.aggregateType };
      const events = decided.map((event) => (
        { ...(event.aggregateId === undefined && type), ...event, aggregateId: event.aggregateId ?? id }
      ));
      try {
        const answer = await this.append(events, { ...call, expect: { [id]: sequence } });
        const due = answer.aggregates.some((part) => part.aggregateId === id && part.snapshotDue);
        if (due && fold.snapshot) {
          try {
            const { state: newest, sequence: last } = await this.fold(id, fold, call);
            const version = { schemaVersion: fold.schemaVersion ?? 0 };
            await this.saveSnapshot(id, last, fold.snapshot(newest), { ...call, ...version });
          } catch (failure) { // The append is stored, and the next update tries again.
            this.settings.log(`no snapshot of ${id} was saved`, failure as Error);
          }
        }
        return answer;
      } catch (error) {
        const again = error instanceof WrongExpectedSequenceError && error.aggregateId === id;
        if (!again || conflicts >= 10) throw error;
        await sleep(Math.random() * 10 * conflicts, options.signal, this.#channel.ended);
      }
    }
  }

  /** Saves the state after the event `sequence`. The service keeps the newest snapshot of an aggregate. */
  async saveSnapshot(
    id: string, sequence: bigint, state: unknown,
    options: CallOptions & { schemaVersion?: number; metadata?: Record<string, string> } = {},
  ): Promise<Plain<pb.SaveSnapshotResponse>> {
    const request = {
      aggregateId: id, sequenceNumber: sequence, data: data.encodeData(state, undefined, "data"),
      schemaVersion: options.schemaVersion ?? 0, metadata: options.metadata ?? {},
    };
    return data.plain(await this.#channel.unary(method.saveSnapshot, request, options, true));
  }

  /** Loads the newest snapshot. NotFoundError if there is none. */
  async loadSnapshot(
    aggregateId: string, options: CallOptions = {},
  ): Promise<Snapshot & { aggregateType: string }> {
    const answer = await this.#channel.unary(method.loadSnapshot, { aggregateId }, options);
    return { ...data.decode(answer.snapshot!), aggregateType: answer.aggregateType };
  }

  /** Lists aggregates in the order of their ids, page by page. */
  async *listAggregates(
    options: CallOptions & { type?: string; prefix?: string; snapshotDue?: boolean; pageSize?: number } = {},
  ): AsyncGenerator<Plain<pb.Aggregate>, void, undefined> {
    const { type: aggregateType = "", prefix: aggregateIdPrefix = "" } = options;
    const { snapshotDue = false, pageSize = 0 } = options;
    const request = { aggregateType, aggregateIdPrefix, snapshotDue, pageSize };
    yield* this.#channel.pages(method.listAggregates, request, options, (page) => page.aggregates);
  }

  /** Reads events in the total order, up to the one that is the newest when the iteration starts. */
  async *readAll(options: ReadOptions = {}): AsyncGenerator<RecordedEvent, void, undefined> {
    const attempts = new Attempts(this.#channel, options, false, true);
    const { fromPosition = 1n, limit = 0n } = options;
    const request = { fromPosition, limit, filter: data.encodeFilter(options.filter) };
    let newest: bigint | undefined;
    const rest = (): boolean =>
      (newest === undefined || request.fromPosition <= newest) && (limit === 0n || request.limit > 0n);
    for await (const part of this.#channel.resumed(method.readAll, request, attempts, rest)) {
      newest ??= part.lastPosition;
      for (const event of part.events) {
        if (event.position > newest) return;
        attempts.check();
        request.fromPosition = event.position + 1n;
        request.limit -= limit && 1n;
        yield data.decode(event);
      }
    }
  }

  /**
   * All events in order, and then new ones as they are stored. The checkpoint store has how far the
   * subscription `name` came: an event counts as handled when the loop requests the next one. It reconnects
   * by itself.
   */
  subscribe(name: string, checkpoints: CheckpointStore, options: SubscribeOptions = {}): Subscription {
    const subscription = new Subscription(this.settings, name, checkpoints, options, () => {
      this.#subscriptions.delete(subscription);
    });
    this.#subscriptions.add(subscription);
    return subscription;
  }

  /** State and statistics of the service. */
  async stats(options: CallOptions = {}): Promise<Plain<StatsResponse>> {
    return data.plain(await this.#channel.unary(method.stats, {}, options));
  }

  /** The proof that an event is in the history, for `aethyr-event-store verify-proof`. */
  async getProof(
    event: { eventId: string } | { aggregateId: string; sequenceNumber: bigint },
    options: CallOptions & { withoutRecord?: boolean } = {},
  ): Promise<Plain<pb.GetProofResponse>> {
    const { withoutRecord = false } = options;
    return data.plain(await this.#channel.unary(method.getProof, { ...event, withoutRecord }, options));
  }

  /** Ends subscriptions and connections. Calls in progress fail. */
  async close(): Promise<void> {
    await Promise.all([...this.#subscriptions].map((subscription) => subscription.close()));
    this.#channel.close();
  }

  [Symbol.asyncDispose] = (): Promise<void> => this.close();

}

/** What the requests of both loads have in common. */
const common = ({ recordedUntil, snapshotSchemaVersion: version }: LoadOptions) => ({
  recordedUntil: recordedUntil && timestampFromDate(recordedUntil),
  fromSnapshot: version !== undefined, snapshotSchemaVersion: version ?? 0,
});

const nothing = (aggregateId: string): Loaded =>
  ({ aggregateId, aggregateType: "", lastSequence: 0n, snapshot: undefined, events: [] });

function take(loaded: Loaded, part: pb.LoadEventsResponse | pb.LoadManyEventsResponse): void {
  loaded.aggregateType = part.aggregateType;
  loaded.lastSequence = part.lastSequence;
  if (part.snapshot) loaded.snapshot = data.decode(part.snapshot);
  for (const event of part.events) loaded.events.push(data.decode(event));
}

function expectations(events: readonly NewEvent[], expect: AppendOptions["expect"]): Record<string, bigint> {
  const ids = [...new Set(events.map((event) => event.aggregateId))];
  if (typeof expect !== "object" && expect !== "any" && ids.length > 1) {
    throw InvalidArgumentError.of("expect", "several aggregates need an expectation for each of them");
  }
  const each = typeof expect === "object" ? Object.entries(expect) : ids.map((id) => [id, expect] as const);
  return Object.fromEntries(each.filter(([, value]) => value !== "any").map(([id, value]) => {
    const number = checked("expect", () => value === "new" ? 0n : BigInt(value as bigint));
    if (BigInt.asUintN(64, number) !== number) throw InvalidArgumentError.of("expect", "is out of range");
    return [id, number];
  }));
}
