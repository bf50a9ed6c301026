"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.querySelector("main");
  const inspector = document.querySelector(".inspector");
  const search = document.getElementById("search"), found = document.getElementById("found");
  const views = {};
  let stage = null, pinned = null;

  const section = (key) => main.querySelector(`section[data-stage="${CSS.escape(key)}"]`);
  const within = (selector) => section(stage).querySelectorAll(selector);

  // Pan and zoom: a scale and an offset for each stage.
  const canvasOf = (key) => section(key).querySelector(".canvas");
  const apply = () => {
    const view = views[stage];
    section(stage).querySelector(".world").setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
  };
  const fit = () => {
    const svg = section(stage).querySelector("svg"), canvas = canvasOf(stage);
    const width = +svg.dataset.width, height = +svg.dataset.height;
    const whole = Math.min(canvas.clientWidth / width, canvas.clientHeight / height);
    const k = Math.min(1.25, Math.max(whole, Math.min(canvas.clientWidth / width, 0.62), 0.4));
    const y = height * k < canvas.clientHeight ? (canvas.clientHeight - height * k) / 2 : 0;
    views[stage] = { k, x: (canvas.clientWidth - width * k) / 2, y };
    apply();
    const start = svg.querySelector(".pill.input");
    if (start && width * k > canvas.clientWidth) {
      const box = start.getBoundingClientRect(), area = canvas.getBoundingClientRect();
      views[stage].x += area.left + area.width / 2 - (box.left + box.right) / 2;
      apply();
    }
  };
  const zoom = (factor, x, y) => {
    const view = views[stage], k = Math.min(4, Math.max(0.05, view.k * factor));
    view.x = x - (x - view.x) * (k / view.k);
    view.y = y - (y - view.y) * (k / view.k);
    view.k = k;
    apply();
  };
  const reveal = (element) => {
    const box = element.getBoundingClientRect(), area = canvasOf(stage).getBoundingClientRect(), view = views[stage];
    const middleX = (box.left + box.right) / 2, middleY = (box.top + box.bottom) / 2;
    if (middleX < area.left || middleX > area.right) view.x += area.left + area.width / 2 - middleX;
    if (middleY < area.top || middleY > area.bottom) view.y += area.top + area.height / 2 - middleY;
    apply();
  };

  // The inspector. All text goes in as text, never as markup.
  const make = (tag, text, kind) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const count = (value) => {
    for (const [limit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (value >= limit) return `${(value / limit).toPrecision(3)} ${letter}`;
    return String(value);
  };
  const time = (ms) => ms >= 1000 ? `${(ms / 1000).toPrecision(3)} s` : ms >= 0.1 || !ms ? `${+ms.toPrecision(3)} ms` : `${+(1000 * ms).toPrecision(3)} µs`;
  const rows = (title, pairs) => {
    if (!pairs.length) return [];
    const table = make("table");
    for (const [name, value] of pairs) {
      const row = make("tr");
      row.append(make("td", name), make("td", value, "mono"));
      table.append(row);
    }
    return [make("h3", title), table];
  };
  const inspect = (number) => {
    const node = data[stage][number], head = make("h2", node.op);
    const card = section(stage).querySelector(`svg [data-node="${number}"]`);
    head.append(make("small", node.times > 1 ? `${node.storey}, runs ${node.times} times` : node.storey));
    const parts = [head, make("p", node.doc)];
    parts.push(...rows(node.results.length > 1 ? "results" : "result", node.results));
    parts.push(...rows("reads", node.operands.map(([role, name, type]) => [role ? `${role} = ${name}` : name, type])));
    parts.push(...rows("attributes", node.attributes));
    parts.push(...rows("parameters", node.parameters.map(([name, shape, size]) => [name, `${shape}  ${size}`])));
    if (node.cost) {
      const { matrix, vector, bytes, ms } = node.cost, bar = make("div", undefined, "bar"), fill = make("b");
      fill.style.width = `${Math.min(100, 100 * node.share)}%`;
      bar.append(fill);
      parts.push(...rows("cost", [
        ["time, about", `${time(ms)} · ${(100 * node.share).toFixed(1)}%`], ["matrix flops", count(matrix)],
        ["other arithmetic", count(vector)], ["traffic", `${count(bytes)}B`],
        ...(bytes ? [["flops per byte", String(+((matrix + vector) / bytes).toPrecision(3))]] : []),
      ]), bar);
    }
    inspector.className = `inspector ${card ? card.classList[1] || card.classList[0] : ""} ${pinned === number ? "pinned" : ""}`;
    const area = canvasOf(stage).getBoundingClientRect();
    const hidden = card && card.getBoundingClientRect().left - area.left < 370 && !card.classList.contains("frame");
    inspector.style.left = `${hidden ? Math.max(14, area.width - 344) : 14}px`;
    inspector.replaceChildren(...parts);
    inspector.hidden = false;
  };

  // Focus: a node, whom it reads, and who reads it.
  const clear = () => {
    for (const element of within(".on, .from, .to")) element.classList.remove("on", "from", "to");
    section(stage).querySelector("svg").classList.remove("focus");
    for (const tab of document.querySelectorAll(".tab")) {
      tab.classList.toggle("on", tab.dataset.stage === stage);
      tab.setAttribute("aria-selected", tab.dataset.stage === stage);
    }
    inspector.hidden = true;
  };
  const mark = (number, kind) => { for (const element of within(`[data-node="${number}"]`)) element.classList.add(kind); };
  const focus = (number, scroll) => {
    clear();
    if (number === null) return;
    section(stage).querySelector("svg").classList.add("focus");
    mark(number, "on");
    for (const edge of within(`.edge[data-to="${number}"]`)) { edge.classList.add("from"); if (edge.dataset.from) mark(edge.dataset.from, "from"); }
    for (const edge of within(`.edge[data-from="${number}"]`)) { edge.classList.add("to"); if (edge.dataset.to) mark(edge.dataset.to, "to"); }
    for (const reader of within(`[data-folds~="${number}"]`)) mark(reader.dataset.node, "to");
    inspect(number);
    const line = section(stage).querySelector(`.line[data-node="${number}"]`);
    if (scroll && line) line.scrollIntoView({ block: "center" });
  };
  const pin = (number, scroll) => {
    pinned = number;
    focus(number, scroll);
    history.replaceState(null, "", number === null ? `#${stage}` : `#${stage}/${number}`);
  };
  const over = (event) => {
    const element = event.target.closest("[data-node]");
    if (pinned !== null || !element || !section(stage).contains(element)) return;
    focus(+element.dataset.node, Boolean(element.closest("svg")));
  };

  const open = (key) => {
    if (!data[key]) key = Object.keys(data)[0];
    if (key !== stage) search.value = "";
    for (const each of main.querySelectorAll("section")) each.hidden = each.dataset.stage !== key;
    stage = key;
    if (!views[key]) fit();
    pin(null);
    find();
  };

  // Search, and picking a family in the legend.
  const find = () => {
    const word = search.value.trim().toLowerCase(), svg = section(stage).querySelector("svg");
    const picked = document.querySelector(".legend .picked");
    for (const element of within(".hit")) element.classList.remove("hit");
    found.textContent = "";
    if (!word && !picked) { if (pinned === null) svg.classList.remove("focus"); return; }
    svg.classList.add("focus");
    for (const element of within("svg [data-node]")) {
      const node = data[stage][+element.dataset.node];
      const text = JSON.stringify([node.op, node.results, node.parameters, node.attributes]).toLowerCase();
      if ((word && text.includes(word)) || (picked && element.classList.contains(picked.dataset.family))) element.classList.add("hit");
    }
    found.textContent = `${within("svg .hit").length} found`;
  };
  search.addEventListener("input", () => { pin(null); find(); });
  search.addEventListener("keydown", (event) => {
    const hit = section(stage).querySelector(".hit");
    if (event.key === "Enter" && hit) { pin(+hit.dataset.node, true); reveal(hit); }
  });
  for (const button of document.querySelectorAll(".legend button"))
    button.addEventListener("click", () => {
      const was = button.classList.contains("picked");
      for (const each of document.querySelectorAll(".legend button")) {
        each.classList.toggle("picked", each === button && !was);
        each.setAttribute("aria-pressed", each === button && !was);
      }
      pin(null);
      find();
    });

  for (const tab of document.querySelectorAll(".tab")) tab.addEventListener("click", () => open(tab.dataset.stage));
  for (const button of document.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => {
      const canvas = canvasOf(stage), how = button.dataset.zoom;
      if (how === "text") { button.setAttribute("aria-pressed", !main.classList.toggle("no-text")); fit(); }
      else if (how === "fit") fit();
      else zoom(how === "in" ? 1.25 : 0.8, canvas.clientWidth / 2, canvas.clientHeight / 2);
    });

  for (const key of Object.keys(data)) {
    const canvas = canvasOf(key);
    let drag = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const area = canvas.getBoundingClientRect(), view = views[stage];
      if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY / 250), event.clientX - area.left, event.clientY - area.top);
      else { view.x -= event.shiftKey ? event.deltaY : event.deltaX; view.y -= event.shiftKey ? 0 : event.deltaY; apply(); }
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, moved: false }; });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag || !event.buttons) return;
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      views[stage].x += dx; views[stage].y += dy;
      drag = { x: event.clientX, y: event.clientY, moved: true };
      apply();
    });
    canvas.addEventListener("click", (event) => {
      if (drag && drag.moved) return;
      const element = event.target.closest("[data-node]");
      pin(element && pinned !== +element.dataset.node ? +element.dataset.node : null, true);
    });
    section(key).addEventListener("pointerover", over);
    section(key).addEventListener("pointerleave", () => { if (pinned === null) { clear(); find(); } });
    section(key).querySelector(".code").addEventListener("click", (event) => {
      const line = event.target.closest("[data-node]");
      if (!line) return;
      const card = section(key).querySelector(`svg [data-node="${line.dataset.node}"]`);
      if (card) reveal(card);
      pin(+line.dataset.node, false);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.target === search) { if (event.key === "Escape") { search.value = ""; search.blur(); find(); } return; }
    const canvas = canvasOf(stage);
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    else if (event.key === "Escape") pin(null);
    else if (event.key === "0") fit();
    else if (event.key === "+" || event.key === "=") zoom(1.25, canvas.clientWidth / 2, canvas.clientHeight / 2);
    else if (event.key === "-") zoom(0.8, canvas.clientWidth / 2, canvas.clientHeight / 2);
    else if ((event.key === "Enter" || event.key === " ") && document.activeElement.dataset.node) pin(+document.activeElement.dataset.node, true);
  });
  window.addEventListener("resize", () => {
    const card = pinned === null ? null : section(stage).querySelector(`svg [data-node="${pinned}"]`);
    if (card) reveal(card);
    else fit();
  });

  const [first, number] = location.hash.slice(1).split("/");
  open(decodeURIComponent(first));
  if (number !== undefined && data[stage][+number]) {
    const card = section(stage).querySelector(`svg [data-node="${+number}"]`);
    if (card) reveal(card);
    pin(+number, true);
  }
})();
