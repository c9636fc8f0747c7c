// The values that callers see: events, snapshots, and messages of the API without what only protobuf needs.
import { randomUUID } from "node:crypto";
import { isMessage, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { type Timestamp, timestampDate, timestampFromDate, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { type Value, ValueSchema } from "@bufbuild/protobuf/wkt";
import { checked, InvalidArgumentError } from "./errors.js";
import type * as pb from "./generated/aethyr/eventstore/v1/event_pb.js";

/** Any JSON value. */
export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };

/** What an event or a snapshot holds: JSON, bytes, or nothing. */
export type Data = any;

/** An event to append. `aggregateType` is needed for the first event of an aggregate. */
export type NewEvent = Partial<Omit<Plain<pb.NewEvent>, "data">> & {
  aggregateId: string;
  eventType: string;
  /** A JSON value, or bytes as `Uint8Array`. */
  data?: unknown;
  /** JSON text that is stored byte for byte, instead of `data`. */
  json?: string;
};

/** A stored event. Times are in milliseconds; the service records nanoseconds. */
export type RecordedEvent = Decoded<pb.RecordedEvent>;
/** The state of an aggregate after one of its events. */
export type Snapshot = Decoded<pb.Snapshot>;
/** A place in the order of all events. */
export type Checkpoint = Plain<pb.Checkpoint>;
/** Selects events. An event has to match all fields that are set. */
export type Filter = Partial<Plain<pb.Filter>>;

/** A message of the API: times as `Date`, JSON values as such, 64-bit numbers as `bigint`. */
export type Plain<T> = T extends Timestamp ? Date
  : T extends Value ? JsonValue
  : T extends Uint8Array ? Uint8Array
  : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T as K extends "$typeName" | "$unknown" ? never : K]: Plain<T[K]> }
  : T;

export function plain<T>(value: T): Plain<T> {
  if (isMessage(value, TimestampSchema)) return timestampDate(value) as Plain<T>;
  if (isMessage(value, ValueSchema)) return toJson(ValueSchema, value) as Plain<T>;
  if (Array.isArray(value)) return value.map(plain) as Plain<T>;
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value as Plain<T>;
  const own = isMessage(value) ? ["$typeName", "$unknown"] : [];
  const fields = Object.entries(value).filter(([name]) => !own.includes(name));
  return Object.fromEntries(fields.map(([name, field]) => [name, plain(field)])) as Plain<T>;
}

type EncodedData = Exclude<MessageInitShape<typeof pb.NewEventSchema>["data"], undefined>;

/** `field` is named in the error if the value cannot be written as JSON. */
export function encodeData(data: unknown, json: string | undefined, field: string): EncodedData {
  if (json !== undefined) return { case: "json", value: json };
  if (data === undefined) return { case: undefined };
  if (data instanceof Uint8Array) return { case: "binary", value: data };
  const text = checked(field, () => JSON.stringify(data) as string | undefined);
  if (text === undefined) throw InvalidArgumentError.of(field, `a ${typeof data} is no JSON value`);
  return { case: "json", value: text };
}

/** Gives an event its id, so it is made once for all attempts, and the caller can append it again. */
export function encodeEvent(event: NewEvent, index: number): MessageInitShape<typeof pb.NewEventSchema> {
  event.eventId ||= randomUUID();
  const { data, json, occurredAt, ...rest } = event;
  return {
    ...rest,
    data: encodeData(data, json, `events[${index}].data`),
    ...(occurredAt && { occurredAt: timestampFromDate(occurredAt) }),
  };
}

type Decoded<T> = Omit<Plain<T>, "data"> & {
  /** The JSON value, a `Uint8Array`, or `undefined`. */
  data: Data;
  /** The JSON text as it is stored. Read numbers of more than 53 bits from it. */
  json: string | undefined;
};

export function decode<T extends pb.RecordedEvent | pb.Snapshot>(message: T): Decoded<T> {
  const { data } = message;
  const json = data.case === "json" ? data.value : undefined;
  return { ...plain(message), data: json === undefined ? data.value : JSON.parse(json), json };
}

export function encodeFilter(filter: Filter = {}): MessageInitShape<typeof pb.FilterSchema> {
  const { recordedFrom, recordedUntil, ...rest } = filter;
  return {
    ...rest,
    ...(recordedFrom && { recordedFrom: timestampFromDate(recordedFrom) }),
    ...(recordedUntil && { recordedUntil: timestampFromDate(recordedUntil) }),
  };
}
