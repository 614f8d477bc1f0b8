/** A compiled model in WebAssembly. Everything runs where it is called: a page that must stay smooth calls it in a worker. */

export type Numbers = Float32Array | BigInt64Array | Int32Array | Uint8Array;

export interface TensorInfo {
  name: string;
  type: "float32" | "int64" | "int32" | "bool";
  /** For the longest sequence. */
  shape: number[];
  /** The dimension that may be shorter, the same in all tensors; -1: none. */
  tokenAxis: number;
}

export interface Tensor {
  data: Numbers;
  shape: number[];
}

export interface Label {
  label: string;
  score: number;
}

/** begin and end are UTF-16 units of the text, as `slice` takes them. */
export interface Entity {
  label: string;
  score: number;
  begin: number;
  end: number;
  text: string;
}

/** A stretch of the context. */
export interface Answer {
  score: number;
  begin: number;
  end: number;
  text: string;
}

export interface TaskOptions {
  /** What becomes of a text of more tokens than are read at once: an error ("refuse", the default), or it is cut, or read in windows. */
  longText?: "refuse" | "truncate" | "windows";
  /** How many tokens are read at once; by default as many as the model takes (`answer`: 384). */
  maxTokens?: number;
  /** How many tokens neighbouring windows share; by default half of a window, 128 at most. */
  stride?: number;
  /** `classify`, `entities`, `answer`: leave out what has a lower score. */
  threshold?: number;
  /** `classify`: how many labels at most; by default all. */
  top?: number;
  /** `classify`: the only labels to tell of, and those to leave out. */
  allow?: string[];
  deny?: string[];
  /** `answer`: tokens of the longest answer; by default 15. */
  longest?: number;
  /** `answer`: that there is none is one of the answers, an empty one. */
  noAnswer?: boolean;
}

/** Best first. `overflow` is how many tokens were cut off. */
export type Labels = Label[] & { overflow: number };

/** How a tokenizer, or a task, is set, in JSON, and the file (and key) that says so. */
export interface Setting {
  name: string;
  value: string;
  source: string;
}

/** How text is read and what for, with the names of manifest.json; without a tokenizer none of it. */
export interface Facts {
  task?: string | null;
  activation?: string | null;
  pooling?: string | null;
  normalized?: boolean;
  vocabulary?: { pieces: number; cased: boolean; kind: string; max_tokens: number | null; settings: Setting[] };
}

/** code: POCKETBERT_ERROR_* of pocketbert.h. */
export class PocketBERTError extends Error {
  code: number;
}

/** Sets of WebAssembly's instructions; each has a module of its own. */
export type Level = "@LEVELS@";

export class Model {
  readonly level: Level;
  readonly inputs: TensorInfo[];
  readonly outputs: TensorInfo[];
  /** Of the longest sequence. */
  readonly tokens: number;
  readonly task: "none" | "classify" | "entities" | "fill" | "embed" | "answer";
  readonly labels: string[];
  readonly facts: Facts;

  /** One inference. Inputs by name, or in order; a shorter sequence is computed at its own length. */
  run(inputs: Record<string, Tensor | Numbers | number[]>): Record<string, Tensor>;
  runText(text: string, pair?: string): Record<string, Tensor>;
  tokenize(text: string, pair?: string, maxTokens?: number): { ids: number[]; segments: number[] };
  classify(text: string, pair?: string, options?: TaskOptions): Labels;
  /** Many texts, or pairs: several in one run. */
  classifyAll(texts: (string | [string, string])[], options?: TaskOptions): Labels[];
  embed(text: string, options?: TaskOptions): Float32Array;
  embedAll(texts: string[], options?: TaskOptions): Float32Array[];
  entities(text: string, options?: TaskOptions): Entity[] & { overflow: number };
  /** For each mask the most probable pieces. */
  fill(text: string, top?: number, options?: TaskOptions): Label[][] & { overflow: number };
  /** The best answers, best first. */
  answer(question: string, context: string, top?: number, options?: TaskOptions): Answer[];
  close(): void;
}

export interface LoadOptions {
  /** The URL of the folder with the modules and the weights, ending in "/"; by default that of this file. */
  base?: string | URL;
  /** By default the best that this engine runs. */
  level?: Level;
  /** The level's module, compiled, and the weights' bytes, where they are at hand: a page can share them between workers. */
  module?: WebAssembly.Module;
  weights?: Uint8Array;
  /** While weights are read: how many of how many bytes are there. */
  progress?: (bytes: number, all: number) => void;
}

/** The levels that this engine runs, best first. */
export function levels(): Level[];

export function load(options?: LoadOptions): Promise<Model>;
