// Tests of the client against a local service: what the conformance suite cannot see from outside.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { createServer } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { inspect } from "node:util";
import * as aethyr from "@aethyr/event-store";
import { LocalService } from "@aethyr/event-store/testing";
import { play } from "../examples/quest.js";

const program = process.env["AETHYR_EVENT_STORE"] ?? "aethyr-event-store";
let service: LocalService;
let store: aethyr.EventStore;

before(async () => {
  service = await LocalService.start({ env: { AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLD: "5" } });
  store = new aethyr.EventStore(service.connectionString);
});

after(async () => {
  await store.close();
  await service.stop();
});

const count: aethyr.Fold<{ n: number }> = {
  aggregateType: "Quest", initial: () => ({ n: 0 }), apply: ({ n }) => ({ n: n + 1 }),
  schemaVersion: 7, snapshot: (state) => state,
};

test("connection strings", () => {
  const settings = (text: string): aethyr.Settings => new aethyr.Settings(text);
  const full = settings("aethyr://a:1,[::1],b?tls=on&deadline=500ms&server_name=x");
  assert.deepEqual(full.hosts, ["a:1", "[::1]:50051", "b:50051"]);
  assert.equal(full.deadline, 500);
  assert.equal(settings("aethyr://a?ca=/x").tls, true);
  const secret = settings("aethyr://aes1_secret@127.0.0.1");
  assert.equal(secret.token, "aes1_secret");
  for (const text of [String(secret), JSON.stringify(secret), inspect(secret, { showHidden: true })]) {
    assert.ok(text.includes("***") && !text.includes("aes1_secret"), text);
  }
  const options = new aethyr.Settings({ token: "aes1_secret" });
  assert.ok(!inspect(options).includes("aes1_secret") && inspect(options).includes("***"));
  const wrong: [string, string][] = [
    ["aethyr://a?tsl=on", "tsl"], ["aethyr://aes1_secret@a", "tls"], ["aethyr://a?tls=maybe", "tls"],
    ["aethyr://a:99999", "address"], ["http://a", "address"], ["aethyr://a?deadline=7", "deadline"],
    ["aethyr://a?cert=x", "cert"], ["aethyr://a?token_file=x", "tls"], ["aethyr://", "address"],
    ["aethyr://aes1_secret?x@127.0.0.1", "address"], ["aethyr://a?server_name=x", "tls"],
  ];
  for (const [text, field] of wrong) {
    assert.throws(() => settings(text), (error) => {
      assert.ok(error instanceof aethyr.InvalidArgumentError, text);
      assert.equal(error.violations[0]?.field, field, text);
      return true;
    });
  }
});

test("data that is no JSON, bytes, and numbers of more than 53 bits", async () => {
  const event = { aggregateId: "data-1", aggregateType: "Quest", eventType: "E" };
  await assert.rejects(store.append({ ...event, data: { n: 1n } }), aethyr.InvalidArgumentError);
  await assert.rejects(store.append({ ...event, data: () => 1 }), aethyr.InvalidArgumentError);
  await store.append([
    { ...event, json: '{"n": 9007199254740993}' }, { ...event, data: new Uint8Array([1, 2]) },
    { ...event, data: null }, { ...event, occurredAt: new Date("2026-01-01T00:00:00Z") },
  ]);
  const { events } = await store.load("data-1");
  assert.equal(events[0]?.json, '{"n": 9007199254740993}');
  assert.deepEqual(events.slice(1).map(({ data }) => data), [new Uint8Array([1, 2]), null, undefined]);
  assert.equal(events[3]?.occurredAt?.toISOString(), "2026-01-01T00:00:00.000Z");
  assert.ok(events[0]?.recordedAt instanceof Date && typeof events[0].position === "bigint");
});

test("a signal ends a call with its reason", async () => {
  const reason = new Error("enough");
  await assert.rejects(store.stats({ signal: AbortSignal.abort(reason) }), reason);
  const end = new AbortController();
  const dead = new aethyr.EventStore("aethyr://127.0.0.1:1");
  setTimeout(() => end.abort(reason), 100);
  await assert.rejects(dead.append({ aggregateId: "x", eventType: "E" }, { signal: end.signal }), reason);
  const signal = AbortSignal.timeout(200);
  const subscription = store.subscribe("s", new aethyr.MemoryCheckpoints(), { signal });
  await assert.rejects(async () => { for await (const _ of subscription); }, { name: "TimeoutError" });
});

test("the deadline has the last error as its cause, and says what is known", async () => {
  await using dead = new aethyr.EventStore("aethyr://127.0.0.1:1?deadline=300ms");
  await assert.rejects(dead.append({ aggregateId: "x", eventType: "E" }), (error) => {
    assert.ok(error instanceof aethyr.DeadlineExceededError);
    assert.ok(error.cause instanceof aethyr.UnavailableError);
    assert.equal(error.outcomeUnknown, false);
    return true;
  });
  const silent = createServer(() => undefined).listen(0, "127.0.0.1");
  await new Promise((resolve) => silent.once("listening", resolve));
  const { port } = silent.address() as { port: number };
  const short = "deadline=300ms&attempt_deadline=100ms";
  await using slow = new aethyr.EventStore(`aethyr://127.0.0.1:${port}?${short}`);
  await assert.rejects(slow.append({ aggregateId: "x", eventType: "E" }), { outcomeUnknown: true });
  await assert.rejects(slow.load("x"), { name: "DeadlineExceededError", outcomeUnknown: false });
  await using both = new aethyr.EventStore(`aethyr://127.0.0.1:1,${service.address}`);
  assert.ok((await both.stats()).version);
  silent.close();
});

test("update decides again, saves snapshots, and gives up after ten conflicts", async () => {
  const step = (): aethyr.DecidedEvent[] => [{ eventType: "StepDone" }];
  await Promise.all(Array.from({ length: 4 }, () => store.update("update-1", count, step)));
  await store.update("update-1", count, step);
  assert.equal((await store.loadSnapshot("update-1")).sequenceNumber, 5n);
  assert.deepEqual(await store.fold("update-1", count), { state: { n: 5 }, sequence: 5n });
  assert.equal(await store.update("update-1", count, () => []), undefined);
  let decisions = 0;
  await assert.rejects(store.update("update-1", count, async () => {
    decisions++;
    await store.append({ aggregateId: "update-1", eventType: "Race" });
    return step();
  }), aethyr.WrongExpectedSequenceError);
  assert.equal(decisions, 10);
});

test("an event that was not handled comes again, from a file of checkpoints", async () => {
  const folder = await mkdtemp(join(tmpdir(), "aethyr-checkpoints-"));
  await store.append([1, 2, 3].map((n) => ({
    aggregateId: "sub-1", aggregateType: "Quest", eventType: "E", data: n, correlationId: "sub",
  })));
  const seen: number[] = [];
  for (let run = 0; run < 3; run++) {
    const checkpoints = new aethyr.FileCheckpoints(folder);
    await using events = store.subscribe("a/../b", checkpoints, { filter: { correlationId: "sub" } });
    for await (const event of events) {
      seen.push(event.data);
      if (event.data === run + 1) break;
    }
  }
  assert.deepEqual(seen, [1, 1, 2, 2, 3]);
  const other = new aethyr.MemoryCheckpoints();
  await other.save("x", { position: 1n, chainHash: new Uint8Array(32) });
  const loop = async (name: string, checkpoints: aethyr.CheckpointStore): Promise<void> => {
    for await (const _ of store.subscribe(name, checkpoints));
  };
  await assert.rejects(loop("x", other), aethyr.HistoryChangedError);
  // What the store throws is not taken for a break of the stream.
  const broken = { load: async () => undefined, save: async () => { throw new RangeError("full"); } };
  await assert.rejects(loop("y", broken), RangeError);
  await rm(folder, { recursive: true });
});

test("a token file is read for each attempt", async () => {
  const folder = await mkdtemp(join(tmpdir(), "aethyr-token-"));
  const seen: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    seen.push(request.headers["authorization"]);
    response.writeHead(200, { "content-type": "application/grpc", "grpc-status": "16" }).end();
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const file = join(folder, "token");
  const { port } = server.address() as { port: number };
  const client = new aethyr.EventStore(`aethyr://127.0.0.1:${port}?token_file=${file}`);
  await assert.rejects(client.stats(), aethyr.InvalidArgumentError);
  for (const token of ["one", "two", "", "ge heim", "gehéim"]) {
    await writeFile(file, `${token}\nsecond line\n`);
    await utimes(file, new Date(), new Date(1_000)); // It seems not to have changed.
    const good = token === "one" || token === "two";
    await assert.rejects(client.stats(), good ? aethyr.UnauthenticatedError : aethyr.InvalidArgumentError);
  }
  assert.deepEqual(seen, ["Bearer one", "Bearer two"]);
  await client.close();
  await assert.rejects(client.stats(), { reason: "CLOSED" });
  server.close();
  await rm(folder, { recursive: true });
});

test("TLS and a token", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "aethyr-tls-"));
  const path = (name: string): string => join(folder, name);
  const [cert, key, tokenFile] = [path("tls.pem"), path("tls.key"), path("token")];
  const request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 " +
    "-subj /CN=store.example -addext subjectAltName=DNS:store.example " +
    "-addext basicConstraints=critical,CA:FALSE";
  const made = spawnSync("openssl", [...request.split(" "), "-keyout", key, "-out", cert]);
  if (made.error) return t.skip("there is no openssl");
  const role = ["token", "new", "game-1", "--role", "game"];
  const token = spawnSync(program, role, { env: { PATH: process.env["PATH"] } }).stdout.toString();
  await writeFile(tokenFile, token);
  await writeFile(path("access.yml"), `identities:\n${token.trimEnd().split("\n").at(-1)}\n`);
  const port = await new Promise<number>((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port: free } = server.address() as { port: number };
      server.close(() => resolve(free));
    });
  });
  await writeFile(path("server.yml"), [
    "server:", `  listen: 127.0.0.1:${port}`, `  tls: { certificate_file: ${cert}, key_file: ${key} }`,
    "access:", `  file: ${path("access.yml")}`, "event_sourcing:", "  enabled: true", "",
  ].join("\n"));
  const env = { PATH: process.env["PATH"] };
  const child = spawn(program, ["--config", path("server.yml"), "serve"], { env, stdio: "ignore" });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  try {
    const address = `aethyr://127.0.0.1:${port}?ca=${cert}`;
    const named = `${address}&server_name=store.example`;
    await using client = new aethyr.EventStore(`${named}&token_file=${tokenFile}`);
    await client.append({ aggregateId: "tls-1", aggregateType: "Quest", eventType: "QuestBegun" });
    assert.equal((await client.load("tls-1")).events[0]?.recordedBy, "game-1");
    await using nobody = new aethyr.EventStore(named);
    await assert.rejects(nobody.load("tls-1"), aethyr.UnauthenticatedError);
    // A certificate of another name is like a host that cannot be reached.
    await using other = new aethyr.EventStore(`${address}&deadline=500ms`);
    await assert.rejects(other.append({ aggregateId: "tls-1", eventType: "E" }), (error) => {
      assert.ok(error instanceof aethyr.DeadlineExceededError && !error.outcomeUnknown);
      assert.match((error.cause as Error).message, /certificate|altnames/i);
      return true;
    });
    const both = `aethyr://localhost:${port},127.0.0.1:1`;
    await using wrong = new aethyr.EventStore(`${both}?ca=${cert}&deadline=500ms`);
    await assert.rejects(wrong.stats(), { name: "DeadlineExceededError" });
  } finally {
    child.kill();
    await ended;
    await rm(folder, { recursive: true });
  }
});

test("reads, lists and proofs", async () => {
  const all = [];
  const filter = { aggregateIdPrefix: "data-" };
  for await (const event of store.readAll({ filter, limit: 2n })) all.push(event);
  assert.equal(all.length, 2);
  const ids = [];
  for await (const { aggregateId: id } of store.listAggregates({ type: "Quest", pageSize: 1 })) ids.push(id);
  assert.deepEqual(ids, ["data-1", "sub-1", "update-1"]);
  const proof = await store.getProof({ aggregateId: "data-1", sequenceNumber: 1n });
  assert.ok(proof.tlogProof.startsWith("c2sp.org/tlog-proof@v1"));
});

test("a program that is missing is said to be", async () => {
  const start = LocalService.start({ program: "/nowhere/aethyr" });
  await assert.rejects(start, /was not found.*AETHYR_EVENT_STORE/);
});

test("the example", async () => {
  const lines: string[] = [];
  await play(service.connectionString, (line) => lines.push(line));
  assert.equal(lines[0], "The Lost Sword: 3 steps, 4 events");
  assert.equal(lines[1], "Aldo is in: Armoury. Rusty, and out of swords.");
  assert.equal(lines.at(-1)?.split(" ")[1], "GameObjectContainerUpdated");
});
