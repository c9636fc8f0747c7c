// Compiles the code blocks of the README, and runs them in their order against one service.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { LocalService } from "@aethyr/event-store/testing";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../..", import.meta.url));

test("the code of the README", async (t) => {
  const text = await readFile(join(root, "README.md"), "utf8");
  const blocks = [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map((match) => match[1] ?? "");
  assert.ok(blocks.length >= 9);
  await using service = await LocalService.start();
  const folder = join(root, "dist", "readme");
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  for (const [i, block] of blocks.entries()) {
    await writeFile(join(folder, `block${i}.ts`), block.replaceAll("127.0.0.1:50051", service.address));
  }
  const compilerOptions = { rootDir: ".", outDir: "." };
  const config = { extends: "../../tsconfig.json", compilerOptions, include: ["*.ts"], exclude: [] };
  await writeFile(join(folder, "tsconfig.json"), JSON.stringify(config));
  const tsc = join(root, "node_modules", ".bin", "tsc");
  await run(tsc, ["-p", folder]).catch((error: { stdout: string }) => assert.fail(error.stdout));
  for (const [i, block] of blocks.entries()) {
    if (block.includes("// Not played.")) continue;
    await t.test(`block ${i + 1}`, { timeout: 30_000 }, async () => {
      await run(process.execPath, [`block${i}.js`], { cwd: folder });
    });
  }
});
