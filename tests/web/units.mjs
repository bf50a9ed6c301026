// The sampler and the tokenizer of the page, without a browser: cases as JSON on standard input, results on standard output.
import { readFileSync } from "node:fs";

const [folder] = process.argv.slice(2);
const source = ["sampler.js", "tokenizer.js", "worker.js"].map((name) => readFileSync(`${folder}/${name}`, "utf-8")).join("");
const { SplitMix64, pick, Tokenizer, answers, set } = new Function(
  `${source}; return { SplitMix64, pick, Tokenizer, answers, set: (value) => { model = value; } };`)();
const { draws, picks, texts, tokenizer, ids, written, ends } = JSON.parse(readFileSync(0, "utf-8"));

const many = (count, make) => Array.from({ length: count }, make);
const results = {
  draws: (draws ?? []).map(({ seed, count }) => {
    const random = new SplitMix64(seed);
    return many(count, () => random.uniform());
  }),
  picks: (picks ?? []).map(({ rows, sampling, seed }) => {
    const random = new SplitMix64(seed);
    return rows.map((row) => pick(Float32Array.from(row, (each) => each ?? -Infinity), sampling, random));
  }),
};
if (tokenizer) {
  const made = new Tokenizer(tokenizer);
  results.encoded = texts.map((text) => made.encode(text));
  results.decoded = ids.map((each) => {
    const reader = made.reader();
    return each.map((id) => reader.read(id)).join("") + reader.rest();
  });
}
if (written) {  // by a decoder that has the same tokens for every prompt
  const made = new Tokenizer(tokenizer), steps = written.map((id) => Float32Array.from({ length: 258 }, (_, at) => +(at === id)));
  const decoder = { full: false, step: async () => steps.shift() };
  const sampling = { temperature: 0, topK: null, topP: 1 };
  set({ decoder, sampling, ends: new Set(ends), reader: made.reader(), last: null, logits: steps.shift() });
  results.written = [];
  for (const _ of written) results.written.push(await answers.next());
}
console.log(JSON.stringify(results));
