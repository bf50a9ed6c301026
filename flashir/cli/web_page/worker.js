// What computes, beside the page, which can so be used meanwhile. Each message is a question, and is answered once.

let model;

const answers = {
  // Read the model. Answers once all is in memory.
  async load({ here, files, tokenizer, ends, vocab, limit, runtime: from }) {
    const whole = Object.values(files).reduce((sum, { bytes }) => sum + bytes, 0);
    let come = 0;
    const told = (bytes) => postMessage({ loaded: come += bytes, whole });
    const ort = await runtime(from, here);
    const read = {};
    for (const [name, file] of Object.entries(files)) read[name] = await checked(here, name, file, told);
    model = { tokenizer: new Tokenizer(tokenizer), decoder: await Decoder.open(ort, read, limit), ends: new Set(ends), vocab };
    return { threads: ort.env.wasm.numThreads };
  },

  // Read a prompt. Answers with how many tokens it has.
  async begin({ prompt, sampling, seed }) {
    const ids = model.tokenizer.encode(prompt);
    if (!ids.length) throw new Error("the prompt is empty; give it one token at least");
    const strange = ids.find((id) => id >= model.vocab);
    if (strange !== undefined) throw new Error(`the model has no token ${strange}, its tokens are 0 to ${model.vocab - 1}`);
    const logits = await model.decoder.prefill(ids);
    Object.assign(model, { logits, sampling, random: new SplitMix64(seed), reader: model.tokenizer.reader(), last: null });
    return { tokens: ids.length };
  },

  // Pick a token. Answers with it and the text that is whole with it, or that the text ends, or that there is no more room.
  async next() {
    if (model.last !== null) {
      if (model.decoder.full) return { full: true };
      model.logits = await model.decoder.step(model.last);
    }
    model.last = pick(model.logits, model.sampling, model.random);
    if (model.ends.has(model.last)) return { ended: true };
    return { id: model.last, text: model.reader.read(model.last) };
  },

  // The text that was not whole: bytes of a letter that never ended.
  async end() { return { text: model.reader.rest() }; },
};

onmessage = async ({ data: { number, question, details } }) => {
  try {
    postMessage({ number, answer: await answers[question](details) });
  } catch (error) {
    postMessage({ number, problem: error?.message ?? `the runtime failed (${error})` });
  }
};
