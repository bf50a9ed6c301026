// Continues a conversation with decoder.onnx: the likeliest tokens after each turn, one turn a line.
//
//     npm install onnxruntime-node
//     node decoder.mjs out/decoder.onnx 24 73,116,32,105,115 65,110,100,63
//
// reads a first turn of five tokens and a second of four, and writes 24 tokens after each.

import { InferenceSession, Tensor } from "onnxruntime-node";

const PIECE = 256; // a call compares all its tokens with each other, so prompts are read in pieces

class Decoder {
  static async load(file) {
    const decoder = new Decoder();
    decoder.session = await InferenceSession.create(file);
    decoder.position = 0n;
    decoder.states = {};
    for (const { name, shape } of decoder.session.inputMetadata.slice(2)) { // after input_ids and position_ids
      const sizes = [1, ...shape.slice(1)]; // one row
      decoder.states[name] = new Tensor(new Float32Array(sizes.reduce((x, y) => x * y)), sizes);
    }
    return decoder;
  }

  // Reads further tokens, and returns the likeliest next one.
  async read(ids) {
    let logits;
    for (let start = 0; start < ids.length; start += PIECE) {
      const piece = ids.slice(start, start + PIECE);
      const positions = piece.map(() => this.position++);
      const { session, states } = this;
      const results = await session.run({ input_ids: row(piece), position_ids: row(positions), ...states });
      session.outputNames.slice(1).forEach((name, i) => (states[session.inputNames[i + 2]] = results[name]));
      logits = results.logits.data; // [1, 1, vocab], those of the last token
    }
    return BigInt(logits.reduce((best, logit, i) => (logit > logits[best] ? i : best), 0));
  }
}

const row = (numbers) => new Tensor("int64", BigInt64Array.from(numbers), [1, numbers.length]);

const [file, tokens, ...turns] = process.argv.slice(2);
if (!turns.length) throw new Error("usage: node decoder.mjs FILE TOKENS ID,ID,.. [ID,ID,..]");
const decoder = await Decoder.load(file);
let unread = [];
for (const turn of turns) {
  unread.push(...turn.split(",").map(BigInt));
  const written = [];
  while (written.length < Number(tokens)) {
    unread = [await decoder.read(unread)]; // the last token of a turn is read with the next one
    written.push(unread[0]);
  }
  console.log(written.join(" "));
}
