// A local service for the tests of a game.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "./channel.js";
import { EventStore } from "./store.js";

export interface LocalServiceOptions {
  /** The program. Default: `AETHYR_EVENT_STORE`, else `aethyr-event-store` in `PATH`. */
  program?: string;
  /** Settings as environment variables, for example `AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLD`. */
  env?: Record<string, string>;
  /** Milliseconds until it has to be healthy. Default 20,000. */
  timeout?: number;
}

/** A service on a free port of loopback, without ImmuDB, with an empty storage that goes away with it. */
export class LocalService implements AsyncDisposable {
  private constructor(
    /** `127.0.0.1:PORT` */
    readonly address: string,
    readonly directory: string,
    readonly process: ChildProcess,
    readonly connectionString = `aethyr://${address}`,
  ) {}

  static async start(options: LocalServiceOptions = {}): Promise<LocalService> {
    const program = options.program ?? process.env["AETHYR_EVENT_STORE"] ?? "aethyr-event-store";
    const directory = await mkdtemp(join(tmpdir(), "aethyr-"));
    const address = `127.0.0.1:${await freePort()}`;
    const config = join(directory, "server.yml");
    // Paths in it begin at its directory.
    await writeFile(config, `server:\n  listen: ${address}\nevent_sourcing:\n  enabled: true\n`);
    // Settings of another service in the environment of the tests are not for this one.
    const others = Object.entries(process.env).filter(([name]) => !/^(AETHYR|IMMUDB)_/.test(name));
    const env = { ...Object.fromEntries(others), ...options.env };
    const child = spawn(program, ["--config", config, "serve"], { cwd: directory, env, stdio: "pipe" });
    const service = new LocalService(address, directory, child);
    let output = "";
    let failed: Error | undefined;
    const keep = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-4_000);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    child.on("error", (error: NodeJS.ErrnoException) => {
      failed = error.code !== "ENOENT" ? error : new Error(
        `${program} was not found: build it with "cargo build --release" in github.com/aethyr/event-store, ` +
        "and put it into PATH or its path into AETHYR_EVENT_STORE", { cause: error });
    });
    child.on("exit", (code) => {
      failed ??= new Error(`${program} ended with ${code}: ${output}`);
    });
    const store = new EventStore(service.connectionString);
    try {
      const end = performance.now() + (options.timeout ?? 20_000);
      while (performance.now() < end) {
        if (failed) throw failed;
        if (await store.stats({ deadline: 500 }).catch(() => undefined)) return service;
        await sleep(20);
      }
      throw new Error(`${program} was not healthy in time: ${output}`);
    } catch (error) {
      await service.stop();
      throw error;
    } finally {
      await store.close();
    }
  }

  /** Ends the service and removes its storage. */
  async stop(): Promise<void> {
    const { process: child } = this;
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await ended;
      clearTimeout(timer);
    }
    await rm(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose] = (): Promise<void> => this.stop();
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}
