// node onnxruntime_web.mjs MODEL INPUTS RUNS, in a folder where onnxruntime-web is installed: nanoseconds, a line a run.
// INPUTS is JSON: for each input its numbers, all int64 and of one sequence. One thread, all optimisations.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [model, inputs, runs] = process.argv.slice(2);
const ort = await import(pathToFileURL(createRequire(join(process.cwd(), "x")).resolve("onnxruntime-web")));
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
const feeds = {};
for (const [name, values] of Object.entries(JSON.parse(readFileSync(inputs, "utf8"))))
  feeds[name] = new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
for (let left = Number(runs) + 2; left > 0; left--) {
  const start = process.hrtime.bigint();
  await session.run(feeds);
  const end = process.hrtime.bigint();
  if (left <= Number(runs)) console.log(`${end - start}`);
}
