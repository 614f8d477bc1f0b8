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

/**
 * longText: what becomes of a text of more tokens than the model takes: an error ("refuse", the default), or it is cut, or
 * read in windows. threshold: leave out what has a lower score. noAnswer: that there is none is one of the answers.
 */
export interface TaskOptions {
  longText?: "refuse" | "truncate" | "windows";
  threshold?: number;
  noAnswer?: boolean;
}

/** code: POCKETBERT_ERROR_* of pocketbert.h. */
export class PocketBERTError extends Error {
  code: number;
}

export class Model {
  readonly inputs: TensorInfo[];
  readonly outputs: TensorInfo[];
  /** Of the longest sequence. */
  readonly tokens: number;
  readonly task: "none" | "classify" | "entities" | "fill" | "embed" | "answer";
  readonly labels: string[];

  /** One inference. Inputs by name, or in order; a shorter sequence is computed at its own length. */
  run(inputs: Record<string, Tensor | Numbers | number[]>): Record<string, Tensor>;
  runText(text: string, pair?: string): Record<string, Tensor>;
  tokenize(text: string, pair?: string, maxTokens?: number): { ids: number[]; segments: number[] };
  /** Best first. `overflow` is how many tokens were cut off. */
  classify(text: string, pair?: string, options?: TaskOptions): Label[] & { overflow: number };
  embed(text: string, options?: TaskOptions): Float32Array;
  entities(text: string, options?: TaskOptions): Entity[] & { overflow: number };
  /** For each mask the most probable pieces. */
  fill(text: string, each?: number, options?: TaskOptions): Label[][];
  /** The best answers, best first. */
  answer(question: string, context: string, top?: number, options?: TaskOptions): Answer[];
  close(): void;
}

/** source: where the module is, by default beside this file; or its bytes; or compiled, to share it between workers. */
export function load(source?: string | URL | BufferSource | WebAssembly.Module): Promise<Model>;
