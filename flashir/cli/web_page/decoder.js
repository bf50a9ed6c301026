// The two graphs of an export: prefill.onnx reads a prompt, step.onnx one token more. States go from run to run as tensors.

class Decoder {
  // Those of one sequence; `limit` is how long it may become, null where nothing limits it.
  constructor(ort, prefill, step, limit) {
    this.int64 = (numbers, shape) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);
    this.sessions = { prefill, step };
    this.limit = limit;
  }

  // Files are bytes by name: prefill.onnx, step.onnx, and all else the weights that both refer to.
  static async open(ort, files, limit) {
    const { "prefill.onnx": prefill, "step.onnx": step, ...weights } = files;
    const externalData = Object.entries(weights).map(([path, data]) => ({ path, data }));
    const extra = { session: { disable_quant_qdq: "1" } };  // weights of 8 bits become floats once, not in every step
    const options = { executionProviders: ["wasm"], externalData, logSeverityLevel: 3, extra };  // errors, no warnings
    const open = (graph) => ort.InferenceSession.create(graph, options);
    return new Decoder(ort, await open(prefill), await open(step), limit);
  }

  // Begin anew with a prompt -> the logits of its last token, [v].
  async prefill(ids) {
    if (this.limit !== null && ids.length > this.limit)
      throw new Error(`the prompt has ${ids.length} tokens, this model can hold ${this.limit}`);
    this.position = ids.length;
    const [tokens, lengths] = [this.int64(ids, [1, ids.length]), this.int64([ids.length], [1])];
    return this.keep(await this.sessions.prefill.run({ input_ids: tokens, lengths }));
  }

  // Go on with a token -> the logits after it, [v].
  async step(id) {
    this.position += 1;
    const feeds = { input_ids: this.int64([id], [1]) };
    for (const name of this.sessions.step.inputNames) feeds[name] ??= this.kept[`next.${name}`];
    return this.keep(await this.sessions.step.run(feeds));
  }

  get full() { return this.limit !== null && this.position >= this.limit; }

  keep({ logits, ...states }) {
    this.kept = states;
    return logits.data;
  }
}
