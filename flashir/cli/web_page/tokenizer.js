// A byte-level BPE as a tokenizer.json says it; one of bytes alone is one without merges.

class Tokenizer {
  constructor(file) {
    const { model, pre_tokenizer: level } = file;
    const names = byteNames();
    this.ids = new Map(Object.entries(model.vocab));
    this.ranks = new Map(model.merges.map((pair, rank) => [Array.isArray(pair) ? pair.join(" ") : pair, rank]));
    this.whole = model.ignore_merges === true;
    this.words = level.use_regex === false ? /[^]+/gu : WORDS;
    this.names = names;
    this.known = new Map();
    const bytes = new Map(names.map((name, byte) => [name, byte]));
    const spelled = (name) => {
      const found = Array.from(name, (letter) => bytes.get(letter));
      return found.includes(undefined) ? new TextEncoder().encode(name) : Uint8Array.from(found);
    };
    const all = [...this.ids, ...(file.added_tokens ?? []).map(({ content, id }) => [content, id])];
    this.spelled = new Map(all.map(([name, id]) => [id, spelled(name)]));
  }

  // Text -> token ids.
  encode(text) {
    return (text.match(this.words) ?? []).flatMap((word) => {
      if (!this.known.has(word)) this.known.set(word, this.merged(word));
      return this.known.get(word);
    });
  }

  // Something that takes tokens one by one, and returns the text that is whole by then; U+FFFD for a token it does not know.
  reader() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const rest = () => decoder.decode();
    const read = (id) => this.spelled.has(id) ? decoder.decode(this.spelled.get(id), { stream: true }) : `${rest()}\ufffd`;
    return { read, rest };
  }

  // The pair of the lowest rank is joined, the first one of its kind first, until none is left.
  merged(word) {
    let parts = Array.from(new TextEncoder().encode(word), (byte) => this.names[byte]);
    if (this.whole && this.ids.has(parts.join(""))) parts = [parts.join("")];
    while (true) {
      let least = Infinity, place = -1;
      for (let at = 0; at + 1 < parts.length; at++) {
        const rank = this.ranks.get(`${parts[at]} ${parts[at + 1]}`);
        if (rank < least) [least, place] = [rank, at];
      }
      if (place < 0) break;
      parts.splice(place, 2, parts[place] + parts[place + 1]);
    }
    return parts.map((part) => this.ids.get(part)).filter((id) => id !== undefined);
  }
}

// How GPT-2 cuts a text into words. White space is Unicode's, as in the library `tokenizers`, not JavaScript's own.
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

// The letter that stands for each byte in a tokenizer.json: itself where it can be seen.
const byteNames = () => {
  const seen = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let hidden = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(seen(byte) ? byte : hidden++));
};
