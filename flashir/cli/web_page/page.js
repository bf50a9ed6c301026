"use strict";
(() => {
  const about = JSON.parse(document.getElementById("model").textContent);
  const [form, section, progress] = ["form", "section", "progress"].map((name) => document.querySelector(name));
  const [generate, stop, given, made, status, pace, problem] = ["generate", "stop", "given", "made", "status", "pace", "problem"]
    .map((name) => document.getElementById(name));
  const say = (text, numbers = "") => { status.textContent = text; pace.textContent = numbers; };
  const fail = (error) => { say(""); problem.textContent = error.message; };

  if (location.protocol === "file:") {
    progress.remove();
    return fail(new Error("A browser lets no page on disk read the files beside it. Serve this folder, and open the page there:\n" +
      "python -m http.server\nhttp://localhost:8000"));
  }

  // What computes. It answers each question once, and tells how much is loaded meanwhile.
  const code = new Blob([document.getElementById("worker").textContent], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(code), { type: "module" });
  const waiting = new Map();
  let asked = 0;
  const ask = (question, details) => new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ number: asked, question, details });
  });
  worker.onmessage = ({ data: { number, answer, problem: said, loaded, whole } }) => {
    if (loaded !== undefined) return loading(loaded, whole);
    const { resolve, reject } = waiting.get(number);
    waiting.delete(number);
    if (said === undefined) resolve(answer);
    else reject(new Error(said));
  };
  worker.onerror = (event) => fail(new Error(`this page's script failed: ${event.message}`));

  const loading = (loaded, whole) => {
    const size = (bytes) => (bytes / 2 ** 20).toFixed(whole < 2 ** 25 ? 1 : 0);
    progress.value = loaded / whole;
    say(loaded < whole ? "loading the model" : "preparing the model", `${size(loaded)} of ${size(whole)} MiB`);
  };

  // Ask for a prompt to be continued, until there are enough tokens, no more room, or somebody stops it.
  let stopped = false;
  const write = async ({ prompt, tokens, sampling, seed }) => {
    given.textContent = prompt;
    made.textContent = "";
    made.ids = [];
    section.hidden = false;
    say("reading the prompt");
    let from = performance.now();
    const read = await ask("begin", { prompt, sampling, seed });
    const reading = `${count(read.tokens)} read in ${time(performance.now() - from)}`;
    let end = "done";
    while (made.ids.length < tokens) {
      const { id, text, full, ended } = stopped ? {} : await ask("next");
      if (ended) { end = "the text ends"; break; }
      if (id === undefined) { end = full ? `the model can hold ${about.limit} tokens` : "stopped"; break; }
      add(text);
      made.ids.push(id);
      const steps = made.ids.length - 1;  // the first token comes of the prompt
      if (!steps) from = performance.now();
      const speed = steps ? `, ${(1000 * steps / (performance.now() - from)).toPrecision(3)} a second` : "";
      say("writing", `${count(made.ids.length)}${speed} · ${reading}`);
    }
    add((await ask("end")).text);
    say(end, pace.textContent);
  };
  const count = (tokens) => `${tokens} token${tokens === 1 ? "" : "s"}`;
  const time = (ms) => ms >= 1000 ? `${(ms / 1000).toPrecision(3)} s` : `${ms.toPrecision(3)} ms`;
  const add = (text) => {
    const following = innerHeight + scrollY > document.body.scrollHeight - 40;
    made.append(text);
    if (following) scrollTo(0, document.body.scrollHeight);
  };

  const busy = (is) => {
    const [shown, hidden] = is ? [stop, generate] : [generate, stop], focused = document.activeElement === hidden;
    document.body.classList.toggle("busy", is);
    section.ariaBusy = is;  // a screen reader reads the text once it is whole, and not token by token
    shown.hidden = false;
    hidden.hidden = true;
    if (focused) shown.focus();
  };
  const submit = async (event) => {
    event.preventDefault();
    if (generate.disabled || generate.hidden) return;
    const { prompt, tokens, temperature, top_k: topK, top_p: topP, seed } = Object.fromEntries(new FormData(form));
    const sampling = { temperature: +temperature, topK: topK ? +topK : null, topP: +topP };
    problem.textContent = "";
    stopped = false;
    busy(true);
    await write({ prompt, tokens: +tokens, sampling, seed }).catch(fail);
    busy(false);
  };

  form.addEventListener("submit", submit);
  stop.addEventListener("click", () => { stopped = true; });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopped = true;
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.elements.seed.addEventListener("input", ({ target }) => {
    const fits = /^\d+$/.test(target.value) && BigInt(target.value) < 2n ** 64n;
    target.setCustomValidity(fits ? "" : "a whole number from 0 to 2^64 - 1");
  });

  const open = async () => {
    const { threads } = await ask("load", { ...about, here: new URL(".", location.href).href });
    say("ready", threads > 1 ? `${threads} threads` : "one thread");
    generate.disabled = false;
    if (document.activeElement === document.body) form.elements.prompt.focus();
  };
  open().catch(fail).finally(() => progress.remove());
})();
