// In a page: times our artifacts and what onnxruntime-web makes of the same models, in turns, and posts the milliseconds.
const task = await (await fetch("task.json")).json();
const now = () => performance.now();
const sides = {};

for (const [name, folder] of Object.entries(task.ours)) {
  const model = await (await import(`./${folder}/index.js`)).load();
  sides[`${name} (${model.level})`] = () => model.run(task.inputs);
}
if (Object.keys(task.theirs).length) {
  const ort = await import("./onnxruntime-web/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("./onnxruntime-web/", location.href).href;
  for (const [name, file] of Object.entries(task.theirs)) {
    const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
    const feeds = Object.fromEntries(Object.entries(task.inputs).map(([key, values]) =>
      [key, new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length])]));
    sides[name] = () => session.run(feeds);
  }
}
const times = Object.fromEntries(Object.keys(sides).map((name) => [name, []]));
for (let turn = 0; turn < task.turns; turn++)
  for (const [name, run] of Object.entries(sides))
    for (let i = -2; i < task.runs; i++) {
      const start = now();
      await run();
      if (i >= 0) times[name].push(now() - start);
    }
await fetch("results", { method: "POST", body: JSON.stringify(times) });
