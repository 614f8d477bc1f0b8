// A compiled model in WebAssembly. index.d.ts says what everything is.

const NAME = "@NAME@";
// By what they need of an engine, best first; their weights are the same.
const MODULES = "@MODULES@";
const NEEDS = { "relaxed-simd": 1, "relaxed-dot": 2 };
const PROBE = "@PROBE@";
// The order is that of web_layout in the module.
const MEMBERS =
  "options info info.name info.type info.rank info.shape info.token_axis info.bytes description description.tokens " +
  "description.input_count description.inputs description.output_count description.outputs " +
  "description.task description.labels description.vector description.text_tokens description.facts tensor tensor.data tensor.type " +
  "tensor.rank tensor.shape label label.label label.score entity entity.name entity.score entity.begin entity.end " +
  "answer answer.score answer.begin answer.end task_options task_options.long_text task_options.no_answer " +
  "task_options.threshold task_options.max_tokens task_options.stride task_options.longest task_options.allow " +
  "task_options.allow_count task_options.deny task_options.deny_count text text.text text.text_bytes text.pair text.pair_bytes";
const TYPES = { 1: Float32Array, 2: BigInt64Array, 3: Int32Array, 4: Uint8Array };
const TYPE_NAMES = { 1: "float32", 2: "int64", 3: "int32", 4: "bool" };
const TASKS = ["none", "classify", "entities", "fill", "embed", "answer"];
const LONG_TEXTS = ["refuse", "truncate", "windows"];
const ERROR_ARGUMENT = 1, ERROR_CPU = 5;

export class PocketBERTError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "PocketBERTError";
    this.code = code;
  }
}

// A number of results.
function checkTop(top) {
  if (!Number.isInteger(top) || top < 1) throw new PocketBERTError(ERROR_ARGUMENT, `top is ${top}: give 1 or more`);
  return top;
}

function encode(text) {
  if (typeof text !== "string") throw new PocketBERTError(ERROR_ARGUMENT, "a text must be a string");
  return new TextEncoder().encode(text);
}

// What this engine's relaxed SIMD is good for: 0 nothing, 1 multiply-adds, 2 products of bytes too (probe.c).
function probe() {
  const module = Uint8Array.from(atob(PROBE), (character) => character.charCodeAt(0));
  return WebAssembly.validate(module) ? new WebAssembly.Instance(new WebAssembly.Module(module)).exports.level() : 0;
}

export function levels() {
  const known = probe();
  return Object.keys(MODULES).filter((level) => (NEEDS[level] ?? 0) <= known);
}

// A file's bytes, a piece at a time, to take(piece, at).
async function read(url, take) {
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return take(await readFile(url), 0);
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  let at = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    take(value, at);
    at += value.length;
  }
}

async function compileModule(url) {
  if (url.protocol === "file:") {
    let module;
    await read(url, (bytes) => (module = WebAssembly.compile(bytes)));
    return module;
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  const served = response.headers.get("content-type")?.startsWith("application/wasm");
  return served ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
}

export async function load(options = {}) {
  const runnable = levels();
  const { base = import.meta.url, level = runnable[0], module, weights, progress } = options;
  if (!runnable.includes(level))
    throw new PocketBERTError(ERROR_CPU, `this engine does not run ${level ?? Object.keys(MODULES)}, but ${runnable.join(", ") || "no level"}`);
  const compiled = module ?? (await compileModule(new URL(MODULES[level], base)));
  const now = () => performance.now();
  const { exports } = await WebAssembly.instantiate(compiled, { pocketbert: { now } });
  exports._initialize?.();
  const bytes = exports[`${NAME}_web_weight_bytes`]() >>> 0, place = exports[`${NAME}_web_weights`]() >>> 0;
  const room = new Uint8Array(exports.memory.buffer, place, bytes);
  let count = 0;
  const take = (piece, at) => {
    count = at + piece.length;
    if (count > bytes) throw new PocketBERTError(ERROR_ARGUMENT, `${NAME}.weights has more than ${bytes} bytes: it is another model's`);
    room.set(piece, at);
    progress?.(count, bytes);
  };
  if (weights) take(weights, 0);
  else await read(new URL(`${NAME}.weights`, base), take);
  if (count < bytes) throw new PocketBERTError(ERROR_ARGUMENT, `${NAME}.weights has ${count} bytes for ${bytes}: load it again`);
  return new Model(exports, level);
}

export class Model {
  #module;
  #at = {};
  #handle = 0;
  #vector = 0;
  #textTokens = 0;

  constructor(exports, level) {
    this.#module = exports;
    this.level = level;
    const layout = this.#call("web_layout");
    MEMBERS.split(" ").forEach((member, i) => (this.#at[member] = this.#view().getInt32(layout + 4 * i, true)));
    this.#within((take) => {
      const options = take(this.#at.options);
      this.#view().setUint32(options, this.#at.options, true);
      const result = take(4);
      this.#check(this.#call("open", options, result));
      this.#handle = this.#view().getUint32(result, true);
      this.#describe(take(this.#at.description));
    });
  }

  #call(name, ...values) {
    return this.#module[`${NAME}_${name}`](...values);
  }

  // Memory may have moved whenever the module was called: views are made anew.
  #view() {
    return new DataView(this.#module.memory.buffer);
  }

  #number(at) {
    return this.#view().getInt32(at, true);
  }

  #array(Kind, at, length) {
    return new Kind(this.#module.memory.buffer, at, length);
  }

  // work(take): take(bytes) is memory that is given back when work ends.
  #within(work) {
    const taken = [];
    try {
      return work((bytes) => {
        const at = bytes < 2 ** 31 ? this.#call("web_take", bytes || 1) >>> 0 : 0;
        if (!at) throw new PocketBERTError(4, "out of memory");
        taken.push([at, bytes || 1]);
        return at;
      });
    } finally {
      for (const [at, bytes] of taken) this.#call("web_give", at, bytes);
    }
  }

  #string(at) {
    const bytes = new Uint8Array(this.#module.memory.buffer);
    return new TextDecoder().decode(bytes.subarray(at, bytes.indexOf(0, at)));
  }

  #check(status) {
    if (status !== 0) throw new PocketBERTError(status, this.#string(this.#call("last_error", this.#handle)));
  }

  #describe(at) {
    const member = (name) => at + this.#at[`description.${name}`];
    this.#view().setUint32(at, this.#at.description, true);
    this.#call("describe", at);
    const view = this.#view();
    const number = (name) => view.getInt32(member(name), true);
    const tensors = (first, count) =>
      Array.from({ length: count }, (_, i) => {
        const info = first + i * this.#at.info;
        const field = (name) => view.getInt32(info + this.#at[`info.${name}`], true);
        const shape = Array.from({ length: field("rank") }, (_, d) =>
          Number(view.getBigInt64(info + this.#at["info.shape"] + 8 * d, true)));
        return { name: this.#string(field("name")), type: TYPE_NAMES[field("type")], shape, tokenAxis: field("token_axis") };
      });
    this.tokens = number("tokens");
    this.inputs = tensors(number("inputs"), number("input_count"));
    this.outputs = tensors(number("outputs"), number("output_count"));
    this.task = TASKS[number("task")] ?? "none";
    this.labels = Array.from({ length: number("labels") }, (_, i) => this.#string(this.#call("label", i)));
    this.facts = JSON.parse(this.#string(number("facts")));
    this.#vector = number("vector");
    this.#textTokens = number("text_tokens");
  }

  #writeTensor(at, data, info, shape) {
    const view = this.#view();
    const type = Object.keys(TYPE_NAMES).find((key) => TYPE_NAMES[key] === info.type);
    view.setUint32(at + this.#at["tensor.data"], data, true);
    view.setInt32(at + this.#at["tensor.type"], Number(type), true);
    view.setInt32(at + this.#at["tensor.rank"], shape.length, true);
    shape.forEach((size, d) => view.setBigInt64(at + this.#at["tensor.shape"] + 8 * d, BigInt(size), true));
  }

  #kind(info) {
    return Object.entries(TYPES).find(([key]) => TYPE_NAMES[key] === info.type)[1];
  }

  run(inputs) {
    const given = this.inputs.map((info) => {
      const value = inputs[info.name];
      if (value === undefined) throw new PocketBERTError(ERROR_ARGUMENT, `run: the input ${info.name} is missing`);
      const data = value.data ?? value;
      const tokens = info.tokenAxis < 0 ? 0 : data.length / info.shape.reduce((n, size, d) => (d === info.tokenAxis ? n : n * size), 1);
      const shape = value.shape ?? info.shape.map((size, d) => (d === info.tokenAxis ? tokens : size));
      if (shape.reduce((n, size) => n * size, 1) !== data.length)
        throw new PocketBERTError(2, `run: ${info.name} has ${data.length} elements, which is no shape of the model's`);
      return { info, data, shape };
    });
    const first = given.find(({ info }) => info.tokenAxis >= 0);
    const tokens = first ? first.shape[first.info.tokenAxis] : this.tokens;
    return this.#within((take) => {
      const tensors = take(this.#at.tensor * given.length);
      given.forEach(({ info, data, shape }, i) => {
        const Kind = this.#kind(info);
        const at = take(data.length * Kind.BYTES_PER_ELEMENT);
        const values = info.type === "int64" ? Array.from(data, BigInt) : data;
        this.#array(Kind, at, data.length).set(values);
        this.#writeTensor(tensors + i * this.#at.tensor, at, info, shape);
      });
      return this.#outputs(take, tokens, (outputs) =>
        this.#call("run", this.#handle, tensors, given.length, outputs, this.outputs.length));
    });
  }

  // Takes room for all outputs at their full size, and copies what the call left of them.
  #outputs(take, tokens, call) {
    const results = take(this.#at.tensor * this.outputs.length);
    const places = this.outputs.map((info, i) => {
      const shape = info.shape.map((size, d) => (d === info.tokenAxis ? tokens : size));
      const Kind = this.#kind(info);
      const at = take(info.shape.reduce((n, size) => n * size, 1) * Kind.BYTES_PER_ELEMENT);
      this.#writeTensor(results + i * this.#at.tensor, at, info, shape);
      return at;
    });
    this.#check(call(results));
    const view = this.#view();
    return Object.fromEntries(this.outputs.map((info, i) => {
      const shape = info.shape.map((_, d) =>
        Number(view.getBigInt64(results + i * this.#at.tensor + this.#at["tensor.shape"] + 8 * d, true)));
      const length = shape.reduce((n, size) => n * size, 1);
      return [info.name, { data: this.#array(this.#kind(info), places[i], length).slice(), shape }];
    }));
  }

  // work(take, [text, bytes, pair, bytes])
  #withText(text, pair, work) {
    return this.#within((take) => {
      const put = (string) => {
        const bytes = encode(string);
        const at = take(bytes.length);
        this.#array(Uint8Array, at, bytes.length).set(bytes);
        return [at, bytes.length];
      };
      return work(take, [...put(text), ...(pair === undefined ? [0, 0] : put(pair))]);
    });
  }

  // work(take, texts): an array of pocketbert_text.
  #withTexts(texts, work) {
    if (!Array.isArray(texts)) throw new PocketBERTError(ERROR_ARGUMENT, "texts must be an array of strings or [text, pair]");
    const parts = texts.map((text) => (Array.isArray(text) ? text : [text]).map(encode));
    return this.#within((take) => {
      const all = take(this.#at.text * texts.length);
      let at = take(parts.flat().reduce((bytes, part) => bytes + part.length, 0));
      const view = this.#view(), memory = new Uint8Array(this.#module.memory.buffer);
      parts.forEach((pair, i) => ["text", "pair"].slice(0, pair.length).forEach((member, k) => {
        const entry = all + i * this.#at.text;
        memory.set(pair[k], at);
        view.setUint32(entry + this.#at[`text.${member}`], at, true);
        view.setUint32(entry + this.#at[`text.${member}_bytes`], pair[k].length, true);
        at += pair[k].length;
      }));
      return work(take, all);
    });
  }

  runText(text, pair) {
    return this.#withText(text, pair, (take, place) =>
      this.#outputs(take, this.tokens, (outputs) =>
        this.#call("run_text", this.#handle, ...place, outputs, this.outputs.length, 0)));
  }

  tokenize(text, pair, maxTokens = this.#textTokens || this.tokens) {
    return this.#withText(text, pair, (take, place) => {
      const ids = take(8 * maxTokens), segments = take(8 * maxTokens), count = take(4);
      const status = this.#call("tokenize", ...place, maxTokens, ids, segments, count);
      if (status !== 0) throw new PocketBERTError(status, this.#string(this.#call("last_error", 0)));
      const read = (at) => Array.from(this.#array(BigInt64Array, at, this.#number(count)), Number);
      return { ids: read(ids), segments: read(segments) };
    });
  }

  #options(take, { longText = "refuse", noAnswer = false, threshold = 0, maxTokens = 0, stride, longest = 0, allow, deny, top, ...others } = {}) {
    const [other] = Object.keys(others);
    if (other) throw new PocketBERTError(ERROR_ARGUMENT, `there is no option ${other}`);
    for (const [name, value] of Object.entries({ maxTokens, stride: stride ?? 0, longest }))
      if (!Number.isInteger(value)) throw new PocketBERTError(ERROR_ARGUMENT, `${name} is ${value}: give a whole number`);
    const known = LONG_TEXTS.indexOf(longText);
    if (known < 0) throw new PocketBERTError(ERROR_ARGUMENT, `longText must be one of ${LONG_TEXTS.join(", ")}`);
    const at = take(this.#at.task_options);
    const set = (member, value) => this.#view().setInt32(at + this.#at[`task_options.${member}`], value, true);
    this.#view().setUint32(at, this.#at.task_options, true);
    set("long_text", known);
    set("no_answer", noAnswer ? 1 : 0);
    set("max_tokens", maxTokens);
    set("stride", stride === 0 ? -1 : stride ?? 0);
    set("longest", longest);
    this.#view().setFloat32(at + this.#at["task_options.threshold"], threshold, true);
    for (const [member, names] of Object.entries({ allow, deny })) {
      if (names === undefined) continue;
      const numbers = names.map((name) => this.labels.indexOf(name)), place = take(4 * names.length);
      if (numbers.includes(-1))
        throw new PocketBERTError(ERROR_ARGUMENT, `${member}: the model has no label ${names[numbers.indexOf(-1)]}: it has ${this.labels.join(", ")}`);
      this.#array(Int32Array, place, numbers.length).set(numbers);
      set(member, place);
      set(`${member}_count`, numbers.length);
    }
    return at;
  }

  #labelRoom({ top } = {}) {
    const all = Math.max(this.labels.length, 1); // what has none is refused by its task
    return top === undefined ? all : Math.min(checkTop(top), all);
  }

  classify(text, pair, options) {
    return this.#withText(text, pair, (take, place) => {
      const room = this.#labelRoom(options), labels = take(this.#at.label * room), count = take(4), overflow = take(4);
      const chosen = this.#options(take, options);
      this.#check(this.#call("classify", this.#handle, ...place, chosen, labels, room, count, overflow));
      const found = this.#labels(labels, this.#number(count), (id) => this.labels[id]);
      return Object.assign(found, { overflow: this.#number(overflow) });
    });
  }

  classifyAll(texts, options) {
    return this.#withTexts(texts, (take, all) => {
      const each = this.#labelRoom(options), labels = take(this.#at.label * each * texts.length);
      const overflows = take(4 * texts.length), chosen = this.#options(take, options);
      this.#check(this.#call("classify_all", this.#handle, all, texts.length, chosen, labels, each, overflows));
      return texts.map((_, i) => {
        const found = this.#labels(labels + i * each * this.#at.label, each, (id) => this.labels[id]);
        return Object.assign(found, { overflow: this.#number(overflows + 4 * i) });
      });
    });
  }

  // Fewer than `count` where a label below 0 ends them.
  #labels(at, count, name) {
    const labels = [];
    for (let i = 0; i < count; i++) {
      const label = at + i * this.#at.label, id = this.#number(label + this.#at["label.label"]);
      if (id < 0) break;
      labels.push({ label: name(id), score: this.#view().getFloat32(label + this.#at["label.score"], true) });
    }
    return labels;
  }

  embed(text, options) {
    return this.#withText(text, undefined, (take, [at, bytes]) => {
      const vector = take(4 * this.#vector), overflow = take(4), chosen = this.#options(take, options);
      this.#check(this.#call("embed", this.#handle, at, bytes, chosen, vector, this.#vector, overflow));
      return this.#array(Float32Array, vector, this.#vector).slice();
    });
  }

  embedAll(texts, options) {
    return this.#withTexts(texts, (take, all) => {
      const size = this.#vector, vectors = take(4 * size * texts.length), chosen = this.#options(take, options);
      this.#check(this.#call("embed_all", this.#handle, all, texts.length, chosen, vectors, size, 0));
      return texts.map((_, i) => this.#array(Float32Array, vectors + 4 * size * i, size).slice());
    });
  }

  // Offsets in UTF-16 units of what has them in bytes.
  #stretch(text, utf8, at, kind) {
    const view = this.#view(), decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const units = (name) =>
      decoder.decode(utf8.subarray(0, Number(view.getBigInt64(at + this.#at[`${kind}.${name}`], true)))).length;
    const begin = units("begin"), end = units("end");
    return { score: view.getFloat32(at + this.#at[`${kind}.score`], true), begin, end, text: text.slice(begin, end) };
  }

  entities(text, options) {
    return this.#withText(text, undefined, (take, [at, bytes]) => {
      const count = take(4), overflow = take(4), chosen = this.#options(take, options);
      let room = 64, entities;
      const find = () => {
        entities = take(this.#at.entity * room);
        this.#check(this.#call("entities", this.#handle, at, bytes, chosen, entities, room, count, overflow));
        return this.#number(count);
      };
      if (find() > room) {
        room = this.#number(count);
        find();
      }
      const utf8 = this.#array(Uint8Array, at, bytes).slice();
      const found = Array.from({ length: this.#number(count) }, (_, i) => {
        const entity = entities + i * this.#at.entity;
        const label = this.#string(this.#view().getUint32(entity + this.#at["entity.name"], true));
        return { label, ...this.#stretch(text, utf8, entity, "entity") };
      });
      return Object.assign(found, { overflow: this.#number(overflow) });
    });
  }

  fill(text, top = 5, options) {
    checkTop(top);
    return this.#withText(text, undefined, (take, [at, bytes]) => {
      const masks = take(4), overflow = take(4), chosen = this.#options(take, options);
      const find = (most) => {
        const pieces = take(this.#at.label * top * most);
        this.#check(this.#call("fill", this.#handle, at, bytes, chosen, pieces, top, top * most, masks, overflow));
        return pieces;
      };
      const most = Math.max(this.#textTokens, 1);
      let pieces = find(most);
      if (this.#number(masks) > most) pieces = find(this.#number(masks)); // in windows
      const name = (id) => this.#string(this.#call("token", id));
      const found = Array.from({ length: this.#number(masks) }, (_, i) =>
        this.#labels(pieces + i * top * this.#at.label, top, name));
      return Object.assign(found, { overflow: this.#number(overflow) });
    });
  }

  answer(question, context, top = 1, options) {
    checkTop(top);
    return this.#withText(question, context ?? null, (take, place) => { // null is no text, undefined no pair
      const answers = take(this.#at.answer * top), count = take(4), chosen = this.#options(take, options);
      this.#check(this.#call("answer", this.#handle, ...place, chosen, answers, top, count));
      const utf8 = this.#array(Uint8Array, place[2], place[3]).slice();
      return Array.from({ length: this.#number(count) }, (_, i) =>
        this.#stretch(context, utf8, answers + i * this.#at.answer, "answer"));
    });
  }

  close() {
    this.#call("close", this.#handle);
  }
}
