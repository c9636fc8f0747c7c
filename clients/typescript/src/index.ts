// What the package exports.
export type { CallOptions } from "./channel.js";
export type {
  Checkpoint, Data, Filter, JsonValue, NewEvent, Plain, RecordedEvent, Snapshot,
} from "./data.js";
export * from "./errors.js";
export { type ClientOptions, Settings } from "./options.js";
export * from "./store.js";
export * from "./subscription.js";
export * from "./world.js";
export { StoredIn } from "./generated/aethyr/eventstore/v1/event_pb.js";
export { State } from "./generated/aethyr/eventstore/v1/stats_pb.js";
