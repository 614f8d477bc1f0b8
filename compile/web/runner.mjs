// node runner.mjs LEVEL MODULE NAME INPUTS OUTPUTS THREADS RUNS: what runtime/tools/runner.c does, for a module.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [level, module, , inputsFile, outputsFile, , runs] = process.argv.slice(2);
const KINDS = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array };
const { load } = await import(pathToFileURL(join(dirname(module), "index.js")));
const model = await load(level ? { level } : {});
const given = readFileSync(inputsFile);
let at = 0;
const inputs = {};
for (const info of model.inputs) {
  const Kind = KINDS[info.type];
  const bytes = info.shape.reduce((n, size) => n * size, Kind.BYTES_PER_ELEMENT);
  inputs[info.name] = new Kind(new Uint8Array(given.subarray(at, (at += bytes))).buffer);
}
const outputs = model.run(inputs);
writeFileSync(outputsFile, Buffer.concat(model.outputs.map(({ name }) => Buffer.from(outputs[name].data.buffer))));
for (let left = Number(runs); left > 0; left--) {
  const start = process.hrtime.bigint(), busy = process.cpuUsage();
  model.run(inputs);
  const end = process.hrtime.bigint(), { user, system } = process.cpuUsage(busy);
  console.log(`${end - start} ${1000 * (user + system)}`);
}
