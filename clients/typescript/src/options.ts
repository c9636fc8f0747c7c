// The options of a client, and the connection string that has them all.
import { inspect } from "node:util";
import { checked, InvalidArgumentError } from "./errors.js";

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
  /** Path of a file whose first line is the token. Read again when the file changes. */
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
    if (given.tls === false && (given.ca !== undefined || given.cert !== undefined)) {
      fail("tls", "ca and cert need TLS");
    }
    this.tls = given.tls ?? (given.ca !== undefined || given.cert !== undefined);
    if ((given.cert === undefined) !== (given.key === undefined)) fail("cert", "belongs together with key");
    const { token, ...options } = given;
    this.options = options;
    this.#token = token;
    if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) fail("token", "has invalid characters");
    if (token !== undefined && given.tokenFile !== undefined) fail("token_file", "there is a token already");
    const open = this.tls ? undefined : this.hosts.find((host) => !isLoopback(host));
    if (open !== undefined && (token ?? given.tokenFile) !== undefined) {
      fail("tls", `a token without TLS to ${open} would be readable on the network: use tls=on`);
    }
    this.deadline = milliseconds("deadline", given.deadline ?? 15_000);
    this.attemptDeadline = milliseconds("attempt_deadline", given.attemptDeadline ?? 5_000);
    this.log = given.log ?? (() => undefined);
  }

  get token(): string | undefined {
    return this.#token;
  }

  toString(): string {
    return this.#text;
  }

  toJSON = (): string => this.#text;
  [inspect.custom] = (): string => `Settings(${this.#text})`;
}

function fail(field: string, description: string): never {
  throw InvalidArgumentError.of(field, description);
}

function parse(text: string): ClientOptions {
  const scheme = "aethyr://";
  if (!text.startsWith(scheme)) fail("address", "must begin with aethyr://");
  const mark = text.indexOf("?");
  const authority = text.slice(scheme.length, mark < 0 ? undefined : mark).replace(/\/$/, "");
  const at = authority.lastIndexOf("@");
  const options: ClientOptions = { hosts: authority.slice(at + 1).split(",") };
  if (at >= 0) options.token = decode("token", authority.slice(0, at));
  for (const pair of mark < 0 ? [] : text.slice(mark + 1).split("&")) {
    if (pair === "") continue;
    const [name = "", ...rest] = pair.split("=");
    const value = decode(name, rest.join("="));
    const option = Object.hasOwn(PARAMETERS, name) ? PARAMETERS[name] : undefined;
    if (option === undefined) {
      // A token that is not percent-encoded may have ended up here.
      const shown = name.includes("@") ? "***" : name;
      return fail(shown, `unknown parameter ${shown}; known are ${Object.keys(PARAMETERS).join(", ")}`);
    }
    if (options[option] !== undefined) fail(name, "is there twice");
    if (value === "") fail(name, "has no value");
    if (option !== "tls") options[option] = value;
    else if (/^(on|off)$/.test(value)) options.tls = value === "on";
    else fail("tls", "must be on or off");
  }
  return options;
}

const decode = (field: string, text: string): string => checked(field, () => decodeURIComponent(text));

function withPort(host: string): string {
  const match = /^(\[[0-9a-fA-F:.]+\]|[^[\]:/@\s]+)(?::(\d{1,5}))?$/.exec(host);
  const port = Number(match?.[2] ?? 50051);
  const valid = match && port >= 1 && port <= 65535;
  return valid ? `${match[1]}:${port}` : fail("address", `${JSON.stringify(host)} is not host or host:port`);
}

function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|\[::1\]):\d+$/i.test(host);
}

function milliseconds(field: string, value: number | string): number {
  if (typeof value === "number") return value > 0 ? value : fail(field, "must be greater than 0");
  const match = /^(\d+(?:\.\d+)?)(ms|s|m)$/.exec(value);
  const number = Number(match?.[1]) * ({ ms: 1, s: 1_000, m: 60_000 }[match?.[2] ?? ""] ?? NaN);
  return number > 0 ? number : fail(field, `${value} is not a duration such as 500ms, 15s or 1m`);
}

/** Duration of one call. */
export const callMilliseconds = (value: number | string): number => milliseconds("deadline", value);
