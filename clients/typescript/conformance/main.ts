// The conformance runner of this client: plays the cases of clients/conformance against the harness at
// AETHYR_CONFORMANCE. Files that are named as arguments are played instead of all.
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as aethyr from "../src/index.js";

type Json = Record<string, any>;

const control = process.env["AETHYR_CONFORMANCE"] ?? "";
const folder = fileURLToPath(new URL("../../../conformance", import.meta.url));
// Their keys are the caller's, not names of fields.
const OPAQUE = new Set(["data", "json", "metadata", "attributes", "equipment", "exits"]);
const TIMES = new Set(["recordedFrom", "recordedUntil", "occurredAt"]);
const NUMBERS = new Set(["fromSequence", "toSequence", "limit", "fromPosition", "position"]);

async function command(name: string): Promise<Json> {
  const answer = await fetch(control, { method: "POST", body: JSON.stringify({ control: name }) });
  const json = (await answer.json()) as Json;
  if (!answer.ok) throw new Error(`control ${name}: ${json["error"]}`);
  return json;
}

const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const camel = (name: string): string => name.replace(/_[a-z]/g, (part) => part.slice(1).toUpperCase());

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

/** A value of the client in the form of the cases. */
function shown(value: unknown): any {
  if (typeof value === "bigint") return Number(value);
  if (value instanceof Date) return value.toISOString().replace(".000Z", "Z");
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.map(shown);
  if (typeof value !== "object" || value === null) return value;
  const fields = Object.entries(value).flatMap(([name, field]) => {
    if (name === "json" || field === undefined) return [];
    if (name === "storedIn") return [[snake(name), `STORED_IN_${aethyr.StoredIn[field as number]}`]];
    if (name === "state" && typeof field === "number") return [[name, `STATE_${aethyr.State[field]}`]];
    if (name === "data" && field instanceof Uint8Array) return [["data", { binary: shown(field) }]];
    if (OPAQUE.has(name) && !Array.isArray(field)) return [[name, field]];
    if (name === "eventTypes" || name === "aggregateTypes") return [];
    return [[snake(name), shown(field)]];
  });
  return Object.fromEntries(fields);
}

/** Options of a case in the form of the client. */
function options(value: Json): any {
  const fields = Object.entries(value).map(([key, field]) => {
    const name = camel(key);
    if (name === "data") return [name, given(field)];
    if (TIMES.has(name)) return [name, new Date(field as string)];
    if (NUMBERS.has(name)) return [name, BigInt(field as number)];
    if (name === "filter") return [name, options(field as Json)];
    return [name, field];
  });
  return Object.fromEntries(fields);
}

function given(data: any): unknown {
  const keys = typeof data === "object" && data !== null ? Object.keys(data) : [];
  const bytes = keys.length === 1 && keys[0] === "binary" && typeof data.binary === "string";
  return bytes ? new Uint8Array(Buffer.from(data.binary, "hex")) : data;
}

function expected(value: any): any {
  if (typeof value === "number") return BigInt(value);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([id, one]) => [id, expected(one)]));
}

function asError(error: unknown): Json {
  if (!(error instanceof aethyr.AethyrError)) throw error;
  const { cause: _, stack: __, violations, ...fields } = error as Json;
  const all = shown(fields) as Json;
  if ("player_name" in all) all["name"] = all["player_name"];
  return { ...all, type: error.name.replace(/(?<!Aethyr)Error$/, ""), message: error.message, violations };
}

/** Why an error is not the one that is wanted, or undefined. */
function wrongError(wanted: Json, error: Json): string | undefined {
  for (const [key, value] of Object.entries(wanted)) {
    const ok = key === "field" ? error["violations"]?.some((one: Json) => one["field"] === value)
      : key === "message_has" ? error["message"].includes(value)
      : key === "message_lacks" ? !error["message"].includes(value)
      : wrong(value, error[key]) === undefined;
    if (!ok) return `error: ${key} is not ${JSON.stringify(value)}: ${JSON.stringify(error)}`;
  }
  return undefined;
}

const isDefault = (value: any): boolean =>
  [undefined, null, 0, "", false].includes(value) ||
  (typeof value === "object" && Object.keys(value).length === 0);

/** Why an answer does not match, or undefined. */
function wrong(wanted: any, value: any, path = "answer"): string | undefined {
  const differs = `${path} is ${JSON.stringify(value)?.slice(0, 500)}, not ${JSON.stringify(wanted)}`;
  if (wanted === "$any") return isDefault(value) ? differs : undefined;
  if (Array.isArray(wanted)) {
    const list = value ?? [];
    if (!Array.isArray(list) || list.length !== wanted.length) return differs;
    return wanted.map((one, i) => wrong(one, list[i], `${path}.${i}`)).find((why) => why !== undefined);
  }
  if (typeof wanted === "object" && wanted !== null && "$length" in wanted) {
    const list = value ?? [];
    const counts = wanted.$counts as string | undefined;
    if (!Array.isArray(list) || list.length !== wanted.$length) return `${path}: length ${list.length}`;
    const numbers = counts === undefined ? [] : list.map((one) => one[counts]);
    const gap = numbers.findIndex((number, i) => i > 0 && number !== numbers[i - 1] + 1);
    if (gap >= 0) return `${path}.${gap}: ${counts} does not follow`;
    return ("$first" in wanted ? wrong(wanted.$first, list[0], `${path}.first`) : undefined) ??
      ("$last" in wanted ? wrong(wanted.$last, list.at(-1), `${path}.last`) : undefined);
  }
  if (typeof wanted === "object" && wanted !== null) {
    if (typeof value !== "object" && !isDefault(value)) return differs;
    return Object.entries(wanted).map(([key, one]) => wrong(one, value?.[key], `${path}.${key}`))
      .find((why) => why !== undefined);
  }
  if (isDefault(wanted) && isDefault(value)) return undefined;
  return wanted === value ? undefined : differs;
}

interface Received {
  subscription: aethyr.Subscription;
  done: Promise<void>;
}

const count: aethyr.Fold<{ count: number }> = {
  initial: () => ({ count: 0 }),
  apply: (state) => ({ count: state.count + 1 }),
};

type Operation = (a: any, store: () => aethyr.EventStore, call: Json) => Promise<any>;

/** One run of a case. */
class Case {
  readonly #run = randomBytes(6).toString("hex");
  readonly #names = new Map<string, any>();
  readonly #clients = new Map<string, aethyr.EventStore>();
  readonly #checkpoints = new aethyr.MemoryCheckpoints();
  readonly #background = new Map<string, Promise<any>>();
  readonly #subscriptions = new Map<string, Received>();
  readonly #events = new Map<string, aethyr.RecordedEvent[]>();
  readonly #ended = new Map<string, unknown>();

  constructor(readonly address: string, readonly silent: string) {}

  client(name = "a"): aethyr.EventStore {
    const client = this.#clients.get(name) ?? new aethyr.EventStore(`aethyr://${this.address}`);
    this.#clients.set(name, client);
    return client;
  }

  /** Throws why the step failed. */
  async play(step: Json): Promise<void> {
    if (step["background"] !== undefined) {
      const task = this.#repeat(step, false);
      task.catch(() => undefined);
      this.#background.set(step["background"], task);
      return;
    }
    await this.#repeat(step, true);
  }

  async #repeat(step: Json, check: boolean): Promise<any> {
    let answer: any;
    for (let i = 1; i <= (step["repeat"] ?? 1); i++) {
      const now = this.#fill(step, i) as Json;
      let error: Json | undefined;
      try {
        answer = await this.#once(now);
      } catch (thrown) {
        if (!check || now["error"] === undefined) throw thrown;
        error = asError(thrown);
      }
      if (!check) continue;
      if (now["as"] !== undefined) this.#names.set(now["as"], error ?? answer);
      if (now["error"] !== undefined && error === undefined) {
        throw new Error(`no error, but the answer ${JSON.stringify(answer).slice(0, 500)}`);
      }
      const why = error ? wrongError(now["error"], error)
        : "answer" in now ? wrong(now["answer"], answer) : undefined;
      if (why !== undefined) throw new Error(why);
    }
    return answer;
  }

  #fill(value: any, i: number): any {
    if (Array.isArray(value)) return value.map((one) => this.#fill(one, i));
    if (typeof value === "object" && value !== null) {
      const entries = Object.entries(value).map(([key, one]) => [this.#fill(key, i), this.#fill(one, i)]);
      return Object.fromEntries(entries);
    }
    if (typeof value !== "string") return value;
    const only = /^\$\{([^}]*)\}$/.exec(value);
    if (only) return this.#value(only[1] ?? "", i);
    return value.replace(/\$\{([^}]*)\}/g, (_, name: string) => String(this.#value(name, i)));
  }

  #value(name: string, i: number): any {
    if (name === "run") return this.#run;
    if (name === "i") return i;
    if (name === "address") return this.address;
    if (name === "dead") return "127.0.0.1:1";
    if (name === "silent") return this.silent;
    if (name.startsWith("x:")) return "x".repeat(Number(name.slice(2)));
    const [first = "", ...path] = name.split(".");
    return path.reduce((value, part) => value?.[part], this.#names.get(first));
  }

  async #once(step: Json): Promise<any> {
    const client = (): aethyr.EventStore => this.client(step["client"]);
    const call = step["deadline_ms"] === undefined ? {} : { deadline: step["deadline_ms"] as number };
    if (step["connect"] !== undefined) return this.#connect(step["client"], step["connect"]);
    const name = Object.keys(step).find((key) => Object.hasOwn(this.#operations, key));
    if (name === undefined) throw new Error("no operation is known");
    return shown(await this.#operations[name]?.(step[name], client, call));
  }

  readonly #operations: Record<string, Operation> = {
    append: (a, store, call) => {
      const events = Array.from({ length: a.times ?? 1 }, () => a.events.map(options)).flat();
      return store().append(events, { ...call, ...("expect" in a && { expect: expected(a.expect) }) });
    },
    append_many: async (a, store, call) => {
      const events = Array.from({ length: a.times ?? 1 }, () => a.events.map(options)).flat();
      const most = a.most ? { most: a.most } : {};
      return { calls: await store().appendMany(events, a.correlation_id, { ...call, ...most }) };
    },
    execute_many: async (a, store, call) => {
      const commands = Array.from({ length: a.times ?? 1 }, () => structuredClone(a.commands)).flat();
      const more = { ...(a.most && { most: a.most }), ...(a.actor && { actor: a.actor }) };
      return { calls: await store().world.executeMany(commands, a.correlation_id, { ...call, ...more }) };
    },
    close: async (_, store) => {
      await store().close();
      return {};
    },
    load: (a, store, call) => {
      const { id, fromSnapshot, schemaVersion, ...rest } = options(a);
      const version = fromSnapshot ? { snapshotSchemaVersion: schemaVersion ?? 0 } : {};
      return store().load(id, { ...rest, ...call, ...version });
    },
    load_many: async (a, store, call) => {
      const version = a.from_snapshot ? { snapshotSchemaVersion: a.schema_version ?? 0 } : {};
      return { aggregates: await store().loadMany(a.ids, { ...call, ...version }) };
    },
    fold_count: (a, store, call) => store().fold(a.id, { ...count, schemaVersion: a.schema_version }, call),
    update: async (a, store, call) => {
      let decisions = 0;
      const version = a.snapshot_version;
      const fold = {
        ...count, aggregateType: a.aggregate_type,
        ...(version !== undefined && { schemaVersion: version, snapshot: (state: unknown) => state }),
      };
      const answer = await store().update(a.id, fold, async () => {
        if (decisions++ === 0 && a.race) {
          await using other = new aethyr.EventStore(`aethyr://${this.address}`);
          await other.append(a.race.map(options));
        }
        return a.events.map(options);
      }, call);
      return { ...answer, decisions };
    },
    save_snapshot: (a, store, call) => {
      const version = { schemaVersion: a.schema_version };
      return store().saveSnapshot(a.id, BigInt(a.sequence), given(a.data), { ...call, ...version });
    },
    load_snapshot: async (a, store, call) => {
      const { aggregateType, ...snapshot } = await store().loadSnapshot(a.id, call);
      return { aggregateType, snapshot };
    },
    list_aggregates: async (a, store, call) => ({
      aggregates: await all(store().listAggregates({ ...options(a), ...call })),
    }),
    read_all: async (a, store, call) => ({
      events: await all(store().readAll({ ...options(a), ...call })),
    }),
    subscribe: async (a, store) => {
      if (a.checkpoint) {
        const chainHash = new Uint8Array(Buffer.from(a.checkpoint.chain_hash ?? "", "hex"));
        await this.#checkpoints.save(a.name, { position: BigInt(a.checkpoint.position), chainHash });
      }
      const filter = a.filter ? { filter: options(a.filter) } : {};
      const subscription = store().subscribe(a.name, this.#checkpoints, filter);
      this.#ended.delete(a.name);
      const events = this.#events.get(a.name) ?? [];
      this.#events.set(a.name, events);
      const loop = async (): Promise<void> => {
        for await (const event of subscription) events.push(event);
      };
      const done = loop().catch((error: unknown) => void this.#ended.set(a.name, error));
      this.#subscriptions.set(a.name, { subscription, done });
      return {};
    },
    received: async (a, _, call) => {
      const end = performance.now() + (call["deadline"] ?? 20_000);
      const events = this.#events.get(a.name) ?? [];
      while (events.length < a.count) {
        if (this.#ended.has(a.name)) throw this.#ended.get(a.name);
        if (performance.now() > end) throw new Error(`${events.length} events arrived, not ${a.count}`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      await new Promise((resolve) => setTimeout(resolve, a.settle_ms ?? 0));
      return { events };
    },
    unsubscribe: async (a) => {
      await this.#subscriptions.get(a.name)?.subscription.close();
      await this.#subscriptions.get(a.name)?.done;
      return {};
    },
    execute: (a, store, call) => store().world.execute(a.commands, {
      ...call, ...(a.actor && { actor: a.actor }),
      ...(a.expected_sequences && { expectedSequences: expected(a.expected_sequences) }),
    }),
    get_game_object: async (a, store, call) => ({
      gameObject: await store().world.getGameObject(a.id, call),
    }),
    get_room: async (a, store, call) => ({ room: await store().world.getRoom(a.id, call) }),
    get_player: async (a, store, call) => ({ player: await store().world.getPlayer(a.id, call) }),
    find_player: async (a, store, call) => ({ players: await store().world.findPlayer(a.name, call) }),
    list_game_objects: async (a, store, call) => ({
      gameObjects: await all(store().world.listGameObjects(options(a), call)),
    }),
    list_contents: async (a, store, call) => ({
      gameObjects: await all(store().world.listContents(a.container_id, { ...options(a), ...call })),
    }),
    get_history: async (a, store, call) => ({
      entries: await all(store().world.getHistory(a.id, { ...options(a), ...call })),
    }),
    stats: (_, store, call) => store().stats(call),
    control: (a) => command(a),
    join: (a) => this.#background.get(a) ?? Promise.reject(new Error(`nothing is called ${a}`)),
  };

  /** Makes an instance of the client with a connection string of the case. */
  #connect(name: string | undefined, text: string): Json {
    const client = new aethyr.EventStore(text);
    this.#clients.set(name ?? "a", client);
    const { settings } = client;
    const { hosts, tls, deadline } = settings;
    return { text: String(settings), hosts, tls, deadline_ms: deadline };
  }

  async end(): Promise<void> {
    for (const { subscription, done } of this.#subscriptions.values()) {
      await subscription.close();
      await done;
    }
    await Promise.allSettled(this.#background.values());
    for (const client of this.#clients.values()) await client.close();
  }
}

async function main(): Promise<number> {
  if (control === "") throw new Error("AETHYR_CONFORMANCE is not set: run this with the harness");
  const { address, silent, immudb } = await command("info");
  const named = process.argv.slice(2);
  const files = named.length > 0 ? named
    : readdirSync(folder).filter((name) => name.endsWith(".json")).sort().map((name) => join(folder, name));
  let [passed, skipped] = [0, 0];
  for (const file of files) {
    const { title, needs, steps } = JSON.parse(readFileSync(file, "utf8")) as Json;
    if (needs?.includes("immudb") && !immudb) {
      console.log(`skipped ${title}: no ImmuDB`);
      skipped++;
      continue;
    }
    const run = new Case(address, silent);
    let number = 0;
    try {
      for (const step of steps as Json[]) {
        number++;
        await run.play(step);
      }
      passed++;
      console.log(`ok ${title}`);
    } catch (error) {
      const known = error instanceof aethyr.AethyrError ? error : undefined;
      const kind = known ? `${known.name} ${known.code} ${known.reason}: ` : "";
      const why = kind + (error instanceof Error ? error.message : String(error));
      console.log(`FAILED ${title}: step ${number}: ${why} (${basename(file)})`);
      for (const name of ["release", ...(immudb ? ["start_immudb"] : []), "start_service"]) {
        await command(name).catch((problem: unknown) => console.log(String(problem)));
      }
    }
    await run.end();
  }
  console.log(`${files.length} cases, ${passed} passed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
  return passed + skipped === files.length ? 0 : 1;
}

process.exitCode = await main();
