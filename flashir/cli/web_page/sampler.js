// How the next token is picked, and random numbers that are the same everywhere: as flashir/generation/sampling.py has both.

class SplitMix64 {
  constructor(seed) { this.state = BigInt(seed); }

  // The next number of [0, 1).
  uniform() {
    const wrapped = (number) => BigInt.asUintN(64, number);
    let z = this.state = wrapped(this.state + 0x9E3779B97F4A7C15n);
    z = wrapped((z ^ (z >> 30n)) * 0xBF58476D1CE4E5B9n);
    z = wrapped((z ^ (z >> 27n)) * 0x94D049BB133111EBn);
    z ^= z >> 31n;
    return Number(z >> 11n) * 2 ** -53;
  }
}

// Logits [v] -> a token. At temperature 0 nothing is drawn; topK is null where every logit counts.
const pick = (logits, { temperature, topK, topP }, random) => {
  const largest = logits.reduce((one, other) => Math.max(one, other));
  if (!Number.isFinite(largest)) throw new Error("the logits are not finite, so there is no next token");
  if (!temperature) return logits.indexOf(largest);
  const order = Uint32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);  // equal ones stay in order of ids
  const kept = order.subarray(0, topK ?? order.length);
  let sum = 0;
  const reached = Float64Array.from(kept, (id) => sum += Math.exp((logits[id] - largest) / temperature));
  const last = reached.find((each) => each >= topP * sum), drawn = random.uniform() * last;
  return kept[reached.findIndex((each) => each > drawn)];
};
