// Tests of streams, waits and connections, against servers that do what a test says.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Http2Server, type ServerHttp2Stream } from "node:http2";
import { createServer as createTcpServer, type Socket } from "node:net";
import { test, type TestContext } from "node:test";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import * as aethyr from "@aethyr/event-store";
import * as pb from "../src/generated/aethyr/eventstore/v1/event_store_service_pb.js";

interface End { status: number; details?: Buffer }
type Handler = (call: number, send: (message: Uint8Array) => void, stream: ServerHttp2Stream) =>
  Promise<End | undefined> | End | undefined;

const message = <T extends DescMessage>(schema: T, init: MessageInitShape<T>): Uint8Array =>
  toBinary(schema, create(schema, init));

/** A service whose answers come from a function of the number of the call, from 0 on. */
async function serve(t: TestContext, handler: Handler): Promise<{ address: string; calls: () => number }> {
  let calls = 0;
  const server: Http2Server = createServer();
  server.on("stream", async (stream) => {
    stream.on("error", () => undefined);
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    const send = (bytes: Uint8Array): void => {
      const head = Buffer.alloc(5);
      head.writeUInt32BE(bytes.length, 1);
      stream.write(Buffer.concat([head, bytes]));
    };
    let end: End | undefined;
    stream.on("wantTrailers", () => stream.sendTrailers({
      "grpc-status": String(end?.status ?? 0),
      ...(end?.details && { "grpc-status-details-bin": end.details.toString("base64") }),
    }));
    end = await handler(calls++, send, stream);
    stream.end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as { port: number };
  return { address: `aethyr://127.0.0.1:${port}`, calls: () => calls };
}

const events = (...positions: number[]): { position: bigint }[] =>
  positions.map((position) => ({ position: BigInt(position) }));
const batch = (...positions: number[]): Uint8Array =>
  message(pb.SubscribeResponseSchema, { content: { case: "events", value: { events: events(...positions) } } });
const caughtUp = message(pb.SubscribeResponseSchema, { content: { case: "caughtUp", value: {} } });
const part = (last: number, ...positions: number[]): Uint8Array =>
  message(pb.ReadAllResponseSchema, { events: events(...positions), lastPosition: BigInt(last) });
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function positions(items: AsyncIterable<aethyr.RecordedEvent>): Promise<number[]> {
  const list = [];
  for await (const { position } of items) list.push(Number(position));
  return list;
}

test("a subscription goes on with a new token", async (t) => {
  const { address, calls } = await serve(t, (call, send) => {
    if (call === 1) send(batch(1));
    else if (call < 3) send(caughtUp);
    return { status: 16 };
  });
  await using store = new aethyr.EventStore(address);
  const got: bigint[] = [];
  await assert.rejects(async () => {
    for await (const { position } of store.subscribe("s", new aethyr.MemoryCheckpoints())) got.push(position);
  }, aethyr.UnauthenticatedError);
  assert.deepEqual([got, calls()], [[1n], 4]);
});

test("a filter that matches seldom, and a message that does not come", async (t) => {
  const { address, calls } = await serve(t, async (call, send) => {
    for (let n = 0; n < 6; n++) {
      await pause(100);
      send(part(9));
    }
    if (call === 0) await pause(1_000);
    send(part(9, 9));
    return undefined;
  });
  await using store = new aethyr.EventStore(`${address}?attempt_deadline=300ms&deadline=600ms`);
  assert.deepEqual(await positions(store.readAll()), [9]);
  assert.equal(calls(), 2);
});

test("a read ends where it ended at its begin", async (t) => {
  const { address } = await serve(t, (call, send) => {
    send(call === 0 ? part(3, 1) : part(9, 2, 3, 4));
    return call === 0 ? { status: 14 } : undefined;
  });
  await using store = new aethyr.EventStore(address);
  assert.deepEqual(await positions(store.readAll()), [1, 2, 3]);
});

test("a signal ends a loop in the middle of a message", async (t) => {
  const { address } = await serve(t, (call, send) => {
    send(call === 0 ? part(3, 1, 2, 3) : batch(1, 2, 3));
    return undefined;
  });
  await using store = new aethyr.EventStore(address);
  for (const of of ["read", "subscription"]) {
    const end = new AbortController();
    const { signal } = end;
    const items = of === "read" ? store.readAll({ signal })
      : store.subscribe("s", new aethyr.MemoryCheckpoints(), { signal });
    let count = 0;
    await assert.rejects(async () => {
      for await (const _ of items) {
        count++;
        end.abort(new Error("enough"));
      }
    }, /enough/);
    assert.equal(count, 1, of);
  }
});

test("a delay of nothing is no hot loop", async (t) => {
  const any = (bytes: Buffer): Buffer => {
    const type = Buffer.from("type.googleapis.com/google.rpc.RetryInfo");
    return Buffer.concat([Buffer.from([0x0a, type.length]), type, Buffer.from([0x12, bytes.length]), bytes]);
  };
  const detail = any(Buffer.from([0x0a, 0x00]));
  const details = Buffer.concat([Buffer.from([0x08, 8, 0x1a, detail.length]), detail]);
  const { address, calls } = await serve(t, () => ({ status: 8, details }));
  await using store = new aethyr.EventStore(`${address}?deadline=500ms`);
  await assert.rejects(store.stats(), aethyr.DeadlineExceededError);
  assert.ok(calls() > 1 && calls() < 100, `${calls()} calls`);
});

test("close ends a wait, a call in flight and a subscription", async (t) => {
  const { address } = await serve(t, () => new Promise(() => undefined));
  const wait = new aethyr.EventStore("aethyr://127.0.0.1:1?deadline=1m");
  const store = new aethyr.EventStore(`${address}?deadline=1m&attempt_deadline=1m`);
  const failed = [wait.stats(), store.stats(), store.load("a")].map((call) => (
    assert.rejects(call, { name: "AethyrError", code: "CANCELLED", reason: "CLOSED" })));
  const ended = positions(store.subscribe("s", new aethyr.MemoryCheckpoints()));
  await pause(500);
  await Promise.all([wait.close(), store.close()]);
  await Promise.all(failed);
  assert.deepEqual(await ended, []);
});

test("a connection that is never complete is given up", async (t) => {
  const sockets: Socket[] = [];
  const server = createTcpServer((socket) => void sockets.push(socket.on("error", () => undefined)));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as { port: number };
  const address = `aethyr://127.0.0.1:${port}?tls=on&attempt_deadline=200ms&deadline=1s`;
  await using store = new aethyr.EventStore(address);
  await assert.rejects(store.stats(), aethyr.DeadlineExceededError);
  assert.ok(sockets.length > 1, `${sockets.length} connections`);
});

test("ids are given back, and what is no sequence number is refused", async () => {
  await using store = new aethyr.EventStore("aethyr://127.0.0.1:1?deadline=300ms");
  const event: aethyr.NewEvent = { aggregateId: "a", eventType: "E" };
  const command: aethyr.Command = { createRoom: { id: "a" } };
  await assert.rejects(store.append(event), aethyr.DeadlineExceededError);
  await assert.rejects(store.world.execute(command), aethyr.DeadlineExceededError);
  assert.ok(event.eventId?.length === 36 && command.commandId?.length === 36);
  for (const expect of [-1n, 1n << 64n, 1.5 as unknown as bigint]) {
    await assert.rejects(store.append(event, { expect }), (error) => (
      error instanceof aethyr.InvalidArgumentError && error.violations[0]?.field === "expect"));
  }
  await assert.rejects(store.append(event, { deadline: 0 }), aethyr.InvalidArgumentError);
});
