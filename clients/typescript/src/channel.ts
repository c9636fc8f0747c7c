// Connections to the hosts, the attempts of a call within its deadline, and the token that goes with them.
import { readFileSync, statSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import type { DescMessage, DescMethodServerStreaming, DescMethodUnary } from "@bufbuild/protobuf";
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { type Plain, plain } from "./data.js";
import { type AethyrError, checked, DeadlineExceededError, UnavailableError } from "./errors.js";
import { type Failure, failureOf } from "./errors.js";
import { callMilliseconds, type Settings } from "./options.js";

/** Options of every call. */
export interface CallOptions {
  /** Ends the call with the reason of the signal. */
  signal?: AbortSignal | undefined;
  /** For all attempts together: milliseconds, or text such as `2s`. */
  deadline?: number | string | undefined;
  /** The moment of `performance.now()` at which the deadline of an enclosing call is over. */
  deadlineAt?: number | undefined;
}

type Connection = { transport: Transport; session: Http2SessionManager };

/** One connection to the first host that works. */
export class Channel {
  readonly #connections = new Map<string, Connection>();
  #host = 0;
  #token: { text: string; modified: number } | undefined;
  closed = false;

  constructor(readonly settings: Settings) {}

  /** Makes a call with one answer, in as many attempts as its deadline allows. */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>, request: MessageInitShape<I>, options: CallOptions = {}, write = false,
  ): Promise<MessageShape<O>> {
    const attempts = new Attempts(this, options, write);
    for (;;) {
      const host = this.#host;
      try {
        const timeout = Math.max(1, Math.ceil(Math.min(this.settings.attemptDeadline, attempts.left)));
        const { transport } = this.#connect(host);
        const answer = await transport.unary(method, options.signal, timeout, this.#headers(), request);
        return answer.message;
      } catch (error) {
        await attempts.failed(new AttemptFailed(failureOf(error)), host);
      }
    }
  }

  /**
   * One attempt of a call with a stream of answers. `idle` is the longest wait for a message; the time that
   * the caller takes for a message is not counted.
   */
  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>, request: MessageInitShape<I>, attempts: Attempts,
    idle: (messages: number) => number = () => Math.min(this.settings.attemptDeadline, attempts.left),
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    const end = new AbortController();
    const { signal } = attempts;
    const abort = (): void => end.abort(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    let timer: NodeJS.Timeout | undefined;
    const late = new ConnectError("the attempt took too long", Code.DeadlineExceeded);
    let messages = 0;
    const arm = (): void => {
      const wait = idle(messages++);
      timer = wait < 2 ** 31 ? globalThis.setTimeout(() => end.abort(late), Math.max(1, wait)) : undefined;
    };
    attempts.host = this.#host;
    try {
      arm();
      const { transport } = this.#connect(this.#host);
      const input = (async function* () { yield request; })();
      const answer = await transport.stream(method, end.signal, undefined, this.#headers(), input);
      for await (const message of answer.message) {
        clearTimeout(timer);
        yield message;
        // The time of the caller counts for no deadline.
        attempts.progress();
        arm();
      }
    } catch (error) {
      throw new AttemptFailed(failureOf(end.signal.aborted && !signal?.aborted ? late : error));
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      end.abort();
    }
  }

  /** The items of all pages of a list. */
  async *pages<I extends DescMessage, O extends DescMessage, T>(
    method: DescMethodUnary<I, O>, request: MessageInitShape<I>, options: CallOptions,
    items: (page: MessageShape<O>) => T[],
  ): AsyncGenerator<Plain<T>, void, undefined> {
    for (let pageToken = ""; ;) {
      const page = await this.unary(method, { ...request, pageToken }, options);
      yield* items(page).map(plain);
      pageToken = (page as { nextPageToken?: string }).nextPageToken ?? "";
      if (pageToken === "") return;
    }
  }

  /** After a failure of a host: the next one is used, unless another call has moved on already. */
  moveOn(host: number): void {
    if (this.#host === host) this.#host = (host + 1) % this.settings.hosts.length;
  }

  close(): void {
    this.closed = true;
    for (const { session } of this.#connections.values()) session.abort();
    this.#connections.clear();
  }

  #connect(index: number): Connection {
    const closed = { code: "UNAVAILABLE", reason: "CLOSED" };
    if (this.closed) throw new UnavailableError("the client is closed", closed);
    const host = this.settings.hosts[index] ?? "";
    const known = this.#connections.get(host);
    if (known) return known;
    const { tls, options: { ca, cert, key, serverName } } = this.settings;
    const baseUrl = `${tls ? "https" : "http"}://${host}`;
    const session = new Http2SessionManager(baseUrl, { pingIntervalMs: 10_000, pingTimeoutMs: 5_000 }, tls ? {
      ...(ca !== undefined && { ca: readOption("ca", ca) }),
      ...(cert !== undefined && { cert: readOption("cert", cert) }),
      ...(key !== undefined && { key: readOption("key", key) }),
      ...(serverName !== undefined && { servername: serverName }),
    } : undefined);
    const connection = { session, transport: createGrpcTransport({ baseUrl, sessionManager: session }) };
    this.#connections.set(host, connection);
    return connection;
  }

  #headers(): Headers {
    const headers = new Headers();
    const token = this.settings.token ?? this.#tokenOfFile();
    if (token !== undefined) headers.set("authorization", `Bearer ${token}`);
    return headers;
  }

  #tokenOfFile(): string | undefined {
    const path = this.settings.options.tokenFile;
    if (path === undefined) return undefined;
    const modified = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? -1;
    if (this.#token?.modified !== modified) {
      const text = readOption("token_file", path).toString("utf8").split("\n")[0]?.trim() ?? "";
      this.#token = { text, modified };
    }
    return this.#token.text;
  }
}

/** What an attempt ends with inside of the client. Anything else that is thrown is not of the transport. */
export class AttemptFailed extends Error {
  constructor(readonly failure: Failure) {
    super(failure.error.message);
  }
}

/** The attempts of one call. */
export class Attempts {
  host = 0;
  deadlineAt: number;
  #span: number;
  #backoff = 50;
  #hostsTried = 0;
  #maybeStored = false;
  #last: AethyrError | undefined;

  /** With `endless`, the deadline counts from the last message of a stream. */
  constructor(
    readonly channel: Channel, options: CallOptions, readonly write = false, readonly endless = false,
    readonly signal = options.signal,
  ) {
    this.#span = callMilliseconds(options.deadline ?? channel.settings.deadline);
    this.deadlineAt = options.deadlineAt ?? performance.now() + this.#span;
  }

  get left(): number {
    return this.deadlineAt - performance.now();
  }

  /** A message arrived: the next failure is the first one again. */
  progress(): void {
    this.#backoff = 50;
    this.#hostsTried = 0;
    if (this.endless) this.deadlineAt = performance.now() + this.#span;
  }

  /** Returns when it is time for the next attempt, or throws what the call ends with. */
  async failed(thrown: unknown, host = this.host): Promise<void> {
    this.signal?.throwIfAborted();
    if (!(thrown instanceof AttemptFailed)) throw thrown;
    const { error, retry, transport, received } = thrown.failure;
    if (this.channel.closed || !retry) throw error;
    this.#maybeStored ||= this.write && received;
    if (!(error instanceof DeadlineExceededError) || this.#last === undefined) this.#last = error;
    let delay = error.retryAfter ?? Math.random() * this.#backoff;
    if (transport) {
      this.channel.moveOn(host);
      if (++this.#hostsTried < this.channel.settings.hosts.length) delay = 0;
    }
    if (delay > 0) this.#backoff = Math.min(2_000, this.#backoff * 2);
    if (delay >= this.left) throw this.#late();
    this.channel.settings.log(`trying again in ${Math.round(delay)} ms`, error);
    await sleep(delay, this.signal);
  }

  #late(): DeadlineExceededError {
    const outcome = this.#maybeStored ? "; the outcome of the write is unknown" : "";
    const metadata: Record<string, string> = this.#maybeStored ? { outcome: "unknown" } : {};
    const message = `the deadline is over${outcome}: ${this.#last?.message ?? ""}`;
    return new DeadlineExceededError(message, { code: "DEADLINE_EXCEEDED", metadata, cause: this.#last });
  }
}

/** Waits, or throws the reason of the signal. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  await setTimeout(ms, undefined, signal && { signal }).catch(() => signal?.throwIfAborted());
}

const readOption = (field: string, path: string): Buffer => checked(field, () => readFileSync(path));
