// The errors of the client: one class for each kind, and the translation of what the transport and the
// service report.
import { Code, ConnectError } from "@connectrpc/connect";
import { durationMs } from "@bufbuild/protobuf/wkt";
import * as rpc from "./generated/google/rpc/error_details_pb.js";

/** What the service told about an error. */
export interface ErrorDetails {
  /** Name of the gRPC code, for example `ABORTED`. */
  code: string;
  /** Reason from `google.rpc.ErrorInfo`. Empty if there is none. */
  reason?: string;
  domain?: string;
  metadata?: Readonly<Record<string, string>>;
  /** Milliseconds after which the service asks to try again. */
  retryAfter?: number | undefined;
  violations?: readonly Violation[];
  cause?: unknown;
}

/** A field of a request that is not valid. */
export interface Violation {
  field: string;
  description: string;
}

/** Base of all errors of the client, and the class of those whose reason has no class of its own. */
export class AethyrError extends Error {
  readonly code: string;
  readonly reason: string;
  readonly domain: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly retryAfter: number | undefined;

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = details.code;
    this.reason = details.reason ?? "";
    this.domain = details.domain ?? "";
    this.metadata = details.metadata ?? {};
    this.retryAfter = details.retryAfter;
  }
}

/** Another append came first. Load the aggregate and decide again, or use `update`. */
export class WrongExpectedSequenceError extends AethyrError {
  readonly aggregateId = this.metadata["aggregate_id"] ?? "";
  readonly expected = BigInt(this.metadata["expected"] ?? 0);
  readonly actual = BigInt(this.metadata["actual"] ?? 0);
}
/** An event id is already stored with different content, or as part of a different append. */
export class EventIdReusedError extends AethyrError {
  readonly eventId = this.metadata["event_id"] ?? "";
}
/** Another player has the name. `playerName`, because `name` is that of the class. */
export class NameTakenError extends AethyrError {
  readonly id = this.metadata["id"] ?? "";
  readonly playerName = this.metadata["name"] ?? "";
}
export class NotFoundError extends AethyrError {}
export class InvalidArgumentError extends AethyrError {
  readonly violations: readonly Violation[];
  constructor(message: string, details: Partial<ErrorDetails> = {}) {
    super(message, { code: "INVALID_ARGUMENT", ...details });
    this.violations = details.violations ?? [];
  }
  /** What the client refuses by itself. */
  static of(field: string, description: string, cause?: unknown): InvalidArgumentError {
    const violations = [{ field, description }];
    return new InvalidArgumentError(`${field}: ${description}`, { violations, cause });
  }
}
/** @internal The result of a function, or an error that names the field whose value made it fail. */
export function checked<T>(field: string, value: () => T): T {
  try {
    return value();
  } catch (cause) {
    throw InvalidArgumentError.of(field, cause instanceof Error ? cause.message : String(cause), cause);
  }
}
export class UnauthenticatedError extends AethyrError {}
/** The caller is known and may not do this. */
export class NotAllowedError extends AethyrError {
  readonly right = this.metadata["right"] ?? "";
}
/** The checkpoint of a subscription belongs to another history than that of the service. */
export class HistoryChangedError extends AethyrError {}
/** A command, or an event of a world object, breaks a rule of the world. */
export class WorldRuleError extends AethyrError {
  readonly rule = this.metadata["rule"] ?? this.reason;
}
/** Stored data is damaged. */
export class DamagedError extends AethyrError {}
export class ResourceExhaustedError extends AethyrError {
  readonly limit = this.metadata["limit"] ?? "";
  readonly max = this.metadata["max"] ?? "";
}
export class UnavailableError extends AethyrError {}
/** The deadline of a call is over. `cause` is the last error of an attempt. */
export class DeadlineExceededError extends AethyrError {
  /** True for a write of which an attempt may have reached the service: it may be stored. */
  readonly outcomeUnknown: boolean = this.metadata["outcome"] === "unknown";
}
/** The service does not know whether it stored the write. A retry with the same ids tells. */
export class OutcomeUnknownError extends AethyrError {}

/** @internal What an attempt ends with inside of the client. Nothing else that is thrown is of an attempt. */
export class AttemptFailed {
  /**
   * `retry`: another attempt may succeed, and cannot store anything twice. `transport`: the host did not
   * answer. `received`: the service may have carried out the call.
   */
  constructor(
    readonly error: AethyrError, readonly retry: boolean, readonly transport: boolean,
    readonly received: boolean) {}
}

/** Name of a code in gRPC, for example `FAILED_PRECONDITION`. */
const codeName = (code: Code): string =>
  code === Code.Canceled ? "CANCELLED" : (Code[code] ?? "Unknown").replace(/\B[A-Z]/g, "_$&").toUpperCase();

const BY_REASON: Record<string, typeof AethyrError> = {
  WRONG_EXPECTED_SEQUENCE: WrongExpectedSequenceError, EVENT_ID_REUSED: EventIdReusedError,
  NAME_TAKEN: NameTakenError, HISTORY_CHANGED: HistoryChangedError, OUTCOME_UNKNOWN: OutcomeUnknownError,
};

const BY_CODE: Record<string, typeof AethyrError> = {
  NOT_FOUND: NotFoundError, INVALID_ARGUMENT: InvalidArgumentError, UNAUTHENTICATED: UnauthenticatedError,
  PERMISSION_DENIED: NotAllowedError, DATA_LOSS: DamagedError, RESOURCE_EXHAUSTED: ResourceExhaustedError,
  UNAVAILABLE: UnavailableError, DEADLINE_EXCEEDED: DeadlineExceededError,
};

/** @internal Translates whatever a call threw. */
export function failureOf(thrown: unknown): AttemptFailed {
  if (thrown instanceof AethyrError) return new AttemptFailed(thrown, false, false, true);
  const error = ConnectError.from(thrown);
  const server = error.metadata.has("grpc-status") || error.metadata.has("grpc-status-details-bin");
  return server ? serverFailure(error) : transportFailure(error);
}

function serverFailure(error: ConnectError): AttemptFailed {
  const info = error.findDetails(rpc.ErrorInfoSchema)[0];
  const delay = error.findDetails(rpc.RetryInfoSchema)[0]?.retryDelay;
  const violations = error.findDetails(rpc.BadRequestSchema).flatMap((detail) => detail.fieldViolations);
  const code = codeName(error.code);
  const reason = info?.reason ?? "";
  const details = {
    code, reason, domain: info?.domain ?? "", metadata: { ...info?.metadata },
    retryAfter: delay && Math.max(0, durationMs(delay)),
    violations: violations.map(({ field, description }) => ({ field, description })),
  };
  const ofWorld = code === "FAILED_PRECONDITION" && details.domain === "aethyr.world";
  const kind = BY_REASON[reason] ?? BY_CODE[code] ?? (ofWorld ? WorldRuleError : AethyrError);
  const retry = ["UNAVAILABLE", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED"].includes(code) ||
    (code === "RESOURCE_EXHAUSTED" && delay !== undefined) || (code === "ABORTED" && reason === "CONTENTION");
  const received = !["ABORTED", "RESOURCE_EXHAUSTED"].includes(code) && !(code === "UNAVAILABLE" && reason);
  const lost = reason === "" && ["UNAVAILABLE", "DEADLINE_EXCEEDED"].includes(code);
  return new AttemptFailed(new kind(error.rawMessage || code, details), retry, lost, received);
}

function transportFailure(error: ConnectError): AttemptFailed {
  const codes: string[] = [];
  for (let e: unknown = error; e instanceof Error && codes.length < 9; e = e.cause) {
    codes.push("code" in e && typeof e.code === "string" ? e.code : "");
  }
  const message = error.rawMessage || codes.join(" ").trim();
  const cause = error.cause instanceof Error ? error.cause : undefined;
  if (error.code === Code.DeadlineExceeded) {
    const late = new DeadlineExceededError("the attempt took too long", { code: "DEADLINE_EXCEEDED" });
    return new AttemptFailed(late, true, true, true);
  }
  if (/cannot encode/.test(message)) { // It does not become better by another attempt.
    const wrong = new InvalidArgumentError(message, { cause });
    return new AttemptFailed(wrong, false, true, false);
  }
  // A certificate that is not accepted is like a host that cannot be reached.
  const refused = /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|E(HOST|NET)UNREACH|CERT|TLS|SSL|EPROTO|UNABLE_TO/;
  const lost = new UnavailableError(`connection: ${message}`, { code: "UNAVAILABLE", cause });
  return new AttemptFailed(lost, true, true, !codes.some((code) => refused.test(code)));
}
