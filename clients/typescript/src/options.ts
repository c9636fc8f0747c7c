// The options of a client, and the connection string that has them all.
import { inspect } from "node:util";
import { checked, InvalidArgumentError } from "./errors.js";

/** What a token may have. */
export const TOKEN = /^[\x21-\x7e]+$/;

/** What can be set. All of it can also stand in the connection string. */
export interface ClientOptions {
  /** Addresses as `host`, `host:port` or `[ipv6]:port`, tried in turn. */
  hosts?: readonly string[];
  /** Encrypts connections. Default: true if `ca` or `cert` is given. */
  tls?: boolean;
  /** Path of a PEM file with the authorities that sign the certificate of the service. */
  ca?: string;
  /** Paths of PEM files with the certificate of this client and its key. */
  cert?: string;
  key?: string;
  /** Name in the certificate of the service, if it is not the host. */
  serverName?: string;
  token?: string;
  /** Path of a file whose first line is the token. Read for each attempt. */
  tokenFile?: string;
  /** For a call with all its attempts: milliseconds, or text such as `15s`. Default 15 s. */
  deadline?: number | string;
  /** For one attempt, and for the wait for each message of a stream. Default 5 s. */
  attemptDeadline?: number | string;
  /** Told about what the client does by itself: attempts that failed, snapshots that were not saved. */
  log?: (message: string, error?: Error) => void;
}

type Text = "ca" | "cert" | "key" | "serverName" | "tokenFile" | "deadline" | "attemptDeadline";
/** Parameters of the connection string, and the options that they are. */
const PARAMETERS: Record<string, "tls" | Text> = {
  tls: "tls", ca: "ca", cert: "cert", key: "key", server_name: "serverName", token_file: "tokenFile",
  deadline: "deadline", attempt_deadline: "attemptDeadline",
};

/** The options of a client, complete and checked. Every text form shows the token as `***`. */
export class Settings {
  readonly hosts: readonly string[];
  readonly tls: boolean;
  /** Paths and names, as they were given. */
  readonly options: Readonly<Pick<ClientOptions, "ca" | "cert" | "key" | "serverName" | "tokenFile">>;
  readonly deadline: number;
  readonly attemptDeadline: number;
  readonly log: (message: string, error?: Error) => void;
  readonly #token: string | undefined;
  readonly #text: string;

  /** Options beside the connection string take precedence over it. */
  constructor(target: string | ClientOptions = {}, more: ClientOptions = {}) {
    const given = { ...(typeof target === "string" ? parse(target) : target), ...more };
    this.#text = typeof target === "string" ? target.replace(/^(aethyr:\/\/)[^?]*@/, "$1***@") : "";
    this.hosts = (given.hosts ?? ["127.0.0.1"]).map(withPort);
    if (this.hosts.length === 0) fail("address", "there is no host");
    this.#text ||= `aethyr://${given.token === undefined ? "" : "***@"}${this.hosts.join(",")}`;
    if ((given.cert === undefined) !== (given.key === undefined)) fail("cert", "belongs together with key");
    this.tls = given.tls ?? (given.ca ?? given.cert) !== undefined;
    if (!this.tls && (given.ca ?? given.cert ?? given.serverName) !== undefined) {
      fail("tls", "is off, but others need it");
    }
    const { token, ...options } = given;
    this.options = options;
    this.#token = token;
    if (token !== undefined && !TOKEN.test(token)) fail("address", "the token has invalid characters");
    if (token !== undefined && given.tokenFile !== undefined) fail("token_file", "there is a token already");
    const open = this.tls ? undefined : this.hosts.find((host) => !isLoopback(host));
    if (open !== undefined && (token ?? given.tokenFile) !== undefined) {
      fail("tls", `a token without TLS to ${open} would be readable on the network: use tls=on`);
    }
    this.deadline = milliseconds("deadline", given.deadline ?? 15_000);
    this.attemptDeadline = milliseconds("attempt_deadline", given.attemptDeadline ?? 5_000);
    this.log = given.log ?? (() => undefined);
  }

  get token(): string | undefined { return this.#token; }

  toString = (): string => this.#text;
  toJSON = (): string => this.#text;
  [inspect.custom] = (): string => `Settings(${this.#text})`;
}

function fail(field: string, description: string): never {
  throw InvalidArgumentError.of(field, description);
}

function parse(text: string): ClientOptions {
  const scheme = "aethyr://";
  if (!text.startsWith(scheme)) fail("address", "must begin with aethyr://");
  const [, where = "", query = ""] = /^([^?]*)\??(.*)$/s.exec(text.slice(scheme.length)) ?? [];
  // What is wrong may be a part of the token, so it is not shown.
  if (query.includes("@")) fail("address", "@ and ? in a token or a value must be percent-encoded");
  const at = where.lastIndexOf("@");
  const options: ClientOptions = { hosts: where.slice(at + 1).replace(/\/$/, "").split(",") };
  if (at >= 0) options.token = decode(where.slice(0, at));
  for (const pair of query.split("&")) {
    if (pair === "") continue;
    const [name = "", ...rest] = pair.split("=");
    const value = decode(rest.join("="));
    const option = Object.hasOwn(PARAMETERS, name) ? PARAMETERS[name] : undefined;
    if (option === undefined) {
      return fail(name, `unknown parameter ${name}; known are ${Object.keys(PARAMETERS).join(", ")}`);
    }
    if (options[option] !== undefined) fail(name, "is there twice");
    if (value === "") fail(name, "has no value");
    if (option !== "tls") options[option] = value;
    else if (/^(on|off)$/.test(value)) options.tls = value === "on";
    else fail("tls", "must be on or off");
  }
  return options;
}

const decode = (text: string): string => checked("address", () => decodeURIComponent(text));

function withPort(host: string): string {
  const match = /^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([1-9]\d{0,4}))?$/.exec(host);
  const port = Number(match?.[2] ?? 50051);
  if (!match || port > 65535) fail("address", "a host must be NAME, NAME:PORT or [IPV6]:PORT");
  return `${match[1]}:${port}`;
}

const isLoopback = (host: string): boolean => /^(localhost|127(\.\d{1,3}){3}|\[::1\]):\d+$/.test(host);

export function milliseconds(field: string, value: number | string): number {
  if (typeof value === "number") return value > 0 ? value : fail(field, "must be greater than 0");
  const match = /^(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)$/.exec(value);
  const number = Number(match?.[1]) * ({ ms: 1, s: 1_000, m: 60_000 }[match?.[2] ?? ""] ?? NaN);
  return number > 0 ? number : fail(field, "is not a duration such as 500ms, 15s or 1m");
}
