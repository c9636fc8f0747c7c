// Subscriptions that reconnect by themselves, and the places where they keep how far they came.
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { Attempts, Channel, sleep } from "./channel.js";
import { type Checkpoint, decode, encodeFilter, type Filter, type RecordedEvent } from "./data.js";
import { AttemptFailed, UnauthenticatedError, UnavailableError } from "./errors.js";
import { EventStoreService } from "./generated/aethyr/eventstore/v1/event_store_service_pb.js";
import type { Settings } from "./options.js";

/** Keeps the checkpoint of each subscription. */
export interface CheckpointStore {
  load(name: string): Promise<Checkpoint | undefined>;
  save(name: string, checkpoint: Checkpoint): Promise<void>;
}

/** Keeps checkpoints as long as the process runs. */
export class MemoryCheckpoints implements CheckpointStore {
  readonly #checkpoints = new Map<string, Checkpoint>();

  load = async (name: string): Promise<Checkpoint | undefined> => this.#checkpoints.get(name);
  save = async (name: string, checkpoint: Checkpoint): Promise<void> => {
    this.#checkpoints.set(name, checkpoint);
  };
}

/** Keeps each checkpoint in a file of a directory. The file is replaced as a whole, and synced. */
export class FileCheckpoints implements CheckpointStore {
  constructor(readonly directory: string) {}

  async load(name: string): Promise<Checkpoint | undefined> {
    const text = await readFile(this.#path(name), "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
    if (text === undefined) return undefined;
    const { position, chain_hash: hash } = JSON.parse(text) as { position: string; chain_hash: string };
    return { position: BigInt(position), chainHash: new Uint8Array(Buffer.from(hash, "hex")) };
  }

  async save(name: string, { position, chainHash }: Checkpoint): Promise<void> {
    await mkdir(this.directory, { recursive: true });
    const path = this.#path(name);
    await using file = await open(`${path}.tmp`, "w", 0o600);
    const hash = Buffer.from(chainHash).toString("hex");
    await file.writeFile(`${JSON.stringify({ position: String(position), chain_hash: hash })}\n`);
    await file.sync();
    await rename(`${path}.tmp`, path);
  }

  #path(name: string): string {
    return join(this.directory, `${encodeURIComponent(name).replaceAll(".", "%2E")}.checkpoint`);
  }
}

export interface SubscribeOptions {
  filter?: Filter;
  /** Ends the subscription with the reason of the signal. */
  signal?: AbortSignal;
  /** Called when all stored events were delivered, each time. */
  onCaughtUp?: () => void;
}

/** The events of a subscription, for one `for await`. Leaving the loop ends the subscription. */
export class Subscription implements AsyncIterable<RecordedEvent>, AsyncDisposable {
  readonly #channel: Channel;
  readonly #end = new AbortController();
  readonly #events: AsyncGenerator<RecordedEvent, void, undefined>;

  constructor(
    settings: Settings, readonly name: string, readonly checkpoints: CheckpointStore,
    options: SubscribeOptions, private readonly ended: () => void,
  ) {
    // The service closes a connection whose answers are not read, so a slow reader must not share one.
    this.#channel = new Channel(settings);
    this.#events = this.#run(options);
  }

  [Symbol.asyncIterator] = (): AsyncGenerator<RecordedEvent, void, undefined> => this.#events;

  /** Ends the subscription: a loop over it ends as well. */
  async close(): Promise<void> {
    this.#end.abort();
    this.#channel.close();
    await this.#events.return();
    this.ended();
  }

  [Symbol.asyncDispose] = (): Promise<void> => this.close();

  async *#run(options: SubscribeOptions): AsyncGenerator<RecordedEvent, void, undefined> {
    const { signal: outer } = options;
    const abort = (): void => this.#end.abort(outer?.reason);
    outer?.addEventListener("abort", abort);
    const attempts = new Attempts(this.#channel, { signal: this.#end.signal, deadlineAt: Infinity });
    let place: Checkpoint | undefined;
    const reach = async (to: Checkpoint | undefined): Promise<void> => {
      if (!to || to.position <= (place?.position ?? 0n)) return;
      place = to;
      await this.checkpoints.save(this.name, to);
    };
    // Until all stored events were examined, messages come all the time. Then silence is normal, and
    // HTTP/2 pings find a dead connection.
    let live = false;
    const idle = (): number => live ? Infinity : attempts.timeout();
    try {
      outer?.throwIfAborted();
      place = await this.checkpoints.load(this.name);
      for (let begun = false; ; begun = false) {
        live = false;
        try {
          const request = { ...(place && { after: place }), filter: encodeFilter(options.filter) };
          const stream = this.#channel.stream(EventStoreService.method.subscribe, request, attempts, idle);
          for await (const { content } of stream) {
            begun = true;
            live ||= content.case === "caughtUp";
            if (content.case === "events") {
              for (const event of content.value.events) {
                if (place && event.position <= place.position) continue;
                attempts.check();
                yield decode(event);
                await reach({ position: event.position, chainHash: event.chainHash });
              }
            } else {
              await reach(content.case === "checkpoint" ? content.value : content.value?.checkpoint);
              if (content.case === "caughtUp") options.onCaughtUp?.();
            }
          }
          const ended = new UnavailableError("the stream ended", { code: "UNAVAILABLE" });
          throw new AttemptFailed(ended, true, true, false);
        } catch (error) {
          // A token that was replaced ends the stream. With the new one, it goes on.
          const known = error instanceof AttemptFailed ? error.error : undefined;
          if (begun && known instanceof UnauthenticatedError) await sleep(50, this.#end.signal);
          else await attempts.failed(error);
        }
      }
    } catch (error) {
      outer?.throwIfAborted();
      if (!this.#end.signal.aborted) throw error;
    } finally {
      outer?.removeEventListener("abort", abort);
      this.#channel.close();
      this.ended();
    }
  }
}
