// Connections to the hosts, the attempts of a call within its deadline, and the token that goes with them.
import { readFileSync } from "node:fs";
import type {
  DescMessage, DescMethodServerStreaming, DescMethodUnary, MessageInitShape, MessageShape,
} from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { type Plain, plain } from "./data.js";
import { AethyrError, AttemptFailed, checked, DeadlineExceededError, failureOf } from "./errors.js";
import { InvalidArgumentError } from "./errors.js";
import { milliseconds, type Settings, TOKEN } from "./options.js";

/** Options of every call. */
export interface CallOptions {
  /** Ends the call with the reason of the signal. */
  signal?: AbortSignal | undefined;
  /** For all attempts together: milliseconds, or text such as `2s`. */
  deadline?: number | string | undefined;
  /** The moment of `performance.now()` at which the deadline of an enclosing call is over. */
  deadlineAt?: number | undefined;
}

type Connection = { transport: Transport; session: Http2SessionManager } | undefined;

/** One connection to the first host that works. */
export class Channel {
  readonly #connections: Connection[] = [];
  #host = 0;
  readonly #end = new AbortController();

  constructor(readonly settings: Settings) {}

  get ended(): AbortSignal { return this.#end.signal; }

  /** Makes a call with one answer, in as many attempts as its deadline allows. */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>, request: MessageInitShape<I>, options: CallOptions = {}, write = false,
  ): Promise<MessageShape<O>> {
    const attempts = new Attempts(this, options, write);
    for (;;) {
      const host = this.#host;
      const timeout = attempts.timeout();
      try {
        const { transport } = this.#connect(host);
        const answer = await transport.unary(method, options.signal, timeout, this.#headers(), request);
        return answer.message;
      } catch (error) {
        await attempts.failed(failureOf(error), host);
      }
    }
  }

  /**
   * One attempt of a call with a stream of answers. `idle` is the longest wait for a message; the time that
   * the caller takes for a message is not counted.
   */
  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>, request: MessageInitShape<I>, attempts: Attempts,
    idle: () => number = () => attempts.timeout(),
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    const end = new AbortController();
    const { signal } = attempts;
    const abort = (): void => end.abort(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    let timer: NodeJS.Timeout | undefined;
    const late = new ConnectError("the attempt took too long", Code.DeadlineExceeded);
    const arm = (): void => {
      const wait = idle();
      timer = wait < Infinity ? setTimeout(() => end.abort(late), wait) : undefined;
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
      throw failureOf(end.signal.aborted && !signal?.aborted ? late : error);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      end.abort();
    }
  }

  /** A stream with all of its attempts. `rest` makes the request one for what is missing, if anything is. */
  async *resumed<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>, request: MessageInitShape<I>, attempts: Attempts,
    rest: () => boolean,
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    do {
      try {
        return yield* this.stream(method, request, attempts);
      } catch (error) {
        await attempts.failed(error);
      }
    } while (rest());
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
  moveOn(host: number, late: boolean): void {
    const session = this.#connections[host]?.session;
    if (late && session?.state() === "connecting") { // It would hold up each further attempt.
      delete this.#connections[host];
      session.abort();
    }
    if (this.#host === host) this.#host = (host + 1) % this.settings.hosts.length;
  }

  close(): void {
    this.#end.abort();
    for (const connection of this.#connections.splice(0)) connection?.session.abort();
  }

  #connect(index: number): NonNullable<Connection> {
    if (this.ended.aborted) throw closedError();
    const known = this.#connections[index];
    if (known) return known;
    const { tls, options: { ca, cert, key, serverName } } = this.settings;
    const baseUrl = `${tls ? "https" : "http"}://${this.settings.hosts[index]}`;
    const session = new Http2SessionManager(baseUrl, { pingIntervalMs: 10_000, pingTimeoutMs: 5_000 }, tls ? {
      ...(ca !== undefined && { ca: readOption("ca", ca) }),
      ...(cert !== undefined && { cert: readOption("cert", cert) }),
      ...(key !== undefined && { key: readOption("key", key) }),
      ...(serverName !== undefined && { servername: serverName }),
    } : undefined);
    const transport = createGrpcTransport({ baseUrl, sessionManager: session });
    return this.#connections[index] = { session, transport };
  }

  #headers(): Headers {
    const { token, options: { tokenFile: path } } = this.settings;
    if (token === undefined && path === undefined) return new Headers();
    const text = token ?? String(readOption("token_file", path ?? "")).split("\n")[0]?.trim() ?? "";
    if (!TOKEN.test(text)) throw InvalidArgumentError.of("token_file", "its first line is no token");
    return new Headers({ authorization: `Bearer ${text}` });
  }
}

const closedError = (): AethyrError =>
  new AethyrError("the client is closed", { code: "CANCELLED", reason: "CLOSED" });

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
    this.#span = milliseconds("deadline", options.deadline ?? channel.settings.deadline);
    this.deadlineAt = options.deadlineAt ?? performance.now() + this.#span;
  }

  get #left(): number { return this.deadlineAt - performance.now(); }

  /** Milliseconds for the next attempt, or for the next message of a stream. */
  timeout(): number {
    if (this.#left <= 0) throw this.#late();
    return Math.ceil(Math.min(this.channel.settings.attemptDeadline, this.#left, 2 ** 31 - 1));
  }

  /** Throws what the call ends with if the caller or the client has ended it. */
  check(): void {
    this.signal?.throwIfAborted();
    if (this.channel.ended.aborted) throw closedError();
  }

  /** A message arrived: the next failure is the first one again. */
  progress(): void {
    this.#backoff = 50;
    this.#hostsTried = 0;
    if (this.endless) this.deadlineAt = performance.now() + this.#span;
  }

  /** Returns when it is time for the next attempt, or throws what the call ends with. */
  async failed(thrown: unknown, host = this.host): Promise<void> {
    this.check();
    if (!(thrown instanceof AttemptFailed)) throw thrown;
    const { error, retry, transport, received } = thrown;
    if (!retry) throw error;
    this.#maybeStored ||= this.write && received;
    if (!(error instanceof DeadlineExceededError) || this.#last === undefined) this.#last = error;
    let delay = error.retryAfter || Math.random() * this.#backoff;
    if (transport) {
      this.channel.moveOn(host, error instanceof DeadlineExceededError);
      if (++this.#hostsTried < this.channel.settings.hosts.length) delay = 0;
    }
    this.#backoff = Math.min(2_000, this.#backoff * 2);
    if (delay >= this.#left) throw this.#late();
    this.channel.settings.log(`trying again in ${Math.round(delay)} ms`, error);
    await sleep(Math.min(delay, 60_000), this.signal, this.channel.ended);
    this.check();
  }

  #late(): DeadlineExceededError {
    const outcome = this.#maybeStored ? "; the outcome of the write is unknown" : "";
    const metadata: Record<string, string> = this.#maybeStored ? { outcome: "unknown" } : {};
    const message = `the deadline is over${outcome}: ${this.#last?.message ?? "there was no attempt"}`;
    return new DeadlineExceededError(message, { code: "DEADLINE_EXCEEDED", metadata, cause: this.#last });
  }
}

/** Waits for a time, or until one of the signals. */
export async function sleep(ms: number, ...signals: (AbortSignal | undefined)[]): Promise<void> {
  let end = (): void => undefined;
  const woken = new Promise<void>((resolve) => { end = resolve; });
  const timer = setTimeout(end, ms);
  for (const signal of signals) signal?.addEventListener("abort", end);
  if (!signals.some((signal) => signal?.aborted)) await woken;
  clearTimeout(timer);
  for (const signal of signals) signal?.removeEventListener("abort", end);
}

const readOption = (field: string, path: string): Buffer => checked(field, () => readFileSync(path));

/** Sends longer work in several calls, one after the other. */
export async function inCalls<T, A>(
  work: readonly T[], most: number, send: (part: readonly T[]) => Promise<A>,
): Promise<A[]> {
  const answers: A[] = [];
  for (let at = 0; at < work.length; at += most) answers.push(await send(work.slice(at, at + most)));
  return answers;
}
