// What the page needs from the folder that it lies in, and onnxruntime-web; each is checked against the digest it had.

const found = async (place, name, options = {}) => {
  let response;
  try {
    response = await fetch(new URL(name, place), options);
  } catch (error) {
    throw new Error(`${name} cannot be loaded from ${place}: ${error.message}`);
  }
  if (!response.ok) throw new Error(`${name} cannot be loaded from ${place}: ${response.status} ${response.statusText}`);
  return response;
};

// The bytes of a file; `told` hears of each part of them.
const checked = async (place, name, { bytes, sha256 }, told) => {
  const strange = new Error(`${name} is not the file that this page was written for; export the model again, or reload the page`);
  const reader = (await found(place, name)).body.getReader();
  const content = new Uint8Array(bytes);
  let end = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (end + part.value.length > bytes) throw strange;
    content.set(part.value, end);
    end += part.value.length;
    told(part.value.length);
  }
  if (end !== bytes) throw strange;
  if (crypto.subtle) {  // only where the page comes from this machine, or by https
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    if (Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") !== sha256) throw strange;
  }
  return content;
};

// onnxruntime-web, which runs nothing that has another digest than its release.
const runtime = async ({ place, script, binary }, here) => {
  const from = new URL(place, here);
  const [code, wasm] = await Promise.all(
    [script, binary].map(async ({ name, integrity }) => (await found(from, name, { integrity })).arrayBuffer()),
  );
  const ort = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  ort.env.wasm.wasmBinary = wasm;
  return ort;
};
