// The map's page: four sliders, what they say, and the picture.  The state lives in the URL's hash.
(function () {
  "use strict";

  const data = globalThis.COREA_MAP;
  const model = globalThis.CoreaMap.mapModel(data);
  const coarse = { ...data, shares: data.shares.filter((_, n) => n % 2 === 0) }; // the picture shows no more
  const byId = (id) => document.getElementById(id);
  const LIMITS = {
    gap: { min: 0.01, max: 0.4, start: 0.08 },
    auroc: { min: 0.5, max: 0.98, start: 0.75 },
    rho: { min: 0, max: 0.95, start: 0.85 },
    price: { min: 0.01, max: 0.9, start: 0.2 },
  };
  const GAPS = Array.from({ length: 40 }, (_, n) => 0.01 * (n + 1));
  const AUROCS = Array.from({ length: 25 }, (_, n) => 0.5 + 0.02 * n);
  const MARKS = { COREA: "circle", AvgProb: "square", Router: "triangle", "Shorter answers": "diamond", Random: "cross" };
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`.replace("-0%", "0%");

  let state = globalThis.CoreaMap.readState(LIMITS, location.hash);
  let keptOf = null;
  let shares = null;
  let sharesOf = NaN;
  let speaking = 0;

  function build() {
    for (const [name, { min, max }] of Object.entries(LIMITS)) {
      Object.assign(byId(name), { min, max });
      byId(name).addEventListener("input", (event) => change({ [name]: Number(event.target.value) }));
    }
    addEventListener("hashchange", () => change(globalThis.CoreaMap.readState(LIMITS, location.hash)));
    byId("map").hidden = false;
    showPoints();
    new ResizeObserver(draw).observe(byId("map-plot"));
  }

  function change(changes) {
    state = { ...state, ...changes };
    for (const name of Object.keys(LIMITS)) {
      byId(name).value = state[name];
      byId(`${name}-shown`).textContent = state[name].toFixed(2);
    }
    history.replaceState(null, "", `#${new URLSearchParams(state)}`);
    show();
    draw();
  }

  function put(id, value, text, note) {
    byId(id).dataset.value = value;
    byId(id).textContent = text;
    byId(`${id}-note`).textContent = note;
  }

  function verdict(now) {
    if (now.saving <= 0) return "A cascade costs more than the large model alone.";
    return now.saving < now.coin ? "It saves, but less than a coin would." : "It saves more than a coin would.";
  }

  function show() {
    const now = model.place(state);
    put("saving", now.saving, percent(now.saving), `keeping ${percent(now.kept)} of the answers`);
    put("coin", now.coin, percent(now.coin), "with no confidence at all");
    put("rule-saving", now.ruleSaving, percent(now.ruleSaving), `keeping ${percent(now.ruleKept)} of the answers`);
    put("rule-loss", now.ruleLoss, `${(100 * now.ruleLoss).toFixed(1)}`, "points of Pass@1");
    byId("map-text").textContent =
      `${verdict(now)} The ring is where the sliders stand. Darker saves more; grey: costs more than the LLM alone; ` +
      "below the dashed line a coin saves more. A shade is a tenth. Stars: the paper; diamonds: real pairs; mini pairs by what " +
      "decides: circles, the stated confidence; squares, token probabilities; triangles, a router.";
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      byId("spoken").textContent =
        `Saving ${percent(now.saving)} within 2 points, a coin ${percent(now.coin)}. ${verdict(now)}`;
    }, 500);
  }

  function showPoints() {
    const head = ["pair", "decided by", "gap", "AUROC", "correlation", "saved", "predicted"];
    const cells = (kind, values) =>
      values.map((v) => Object.assign(document.createElement(kind), { textContent: v ?? "" }));
    const row = (kind, values) => {
      const made = document.createElement("tr");
      made.append(...cells(kind, values));
      return made;
    };
    byId("map-points").append(row("th", head));
    for (const p of data.points) {
      const range = p.low === null ? "" : ` [${percent(p.low)}, ${percent(p.high)}]`;
      const known = [p.gap, p.auroc, p.rho].map((value) => value.toFixed(2));
      const saved = [`${percent(p.saving)}${range}`, p.predicted === null ? "" : percent(p.predicted)];
      byId("map-points").append(row("td", [`${p.pair}, ${p.group}`, p.system, ...known, ...saved]));
    }
  }

  // --- the picture ------------------------------------------------------------------------------

  const tag = (name, attributes, text = "") =>
    `<${name} ${Object.entries(attributes)
      .map(([key, value]) => `${key}="${value}"`)
      .join(" ")}>${text}</${name}>`;

  function mark(kind, x, y) {
    const shapes = {
      circle: `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
      square: `M${x - 4} ${y - 4}h8v8h-8z`,
      triangle: `M${x} ${y - 5}l5 9h-10z`,
      diamond: `M${x} ${y - 5}l5 5l-5 5l-5 -5z`,
      cross: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`,
      star: `M${x} ${y - 7}l2 5h5l-4 3l2 5l-5 -3l-5 3l2 -5l-4 -3h5z`,
    };
    return shapes[kind];
  }

  function draw() {
    const width = byId("map-plot").clientWidth;
    keptOf ??= globalThis.CoreaMap.mapModel(coarse).grid(GAPS, AUROCS);
    if (sharesOf !== state.rho) [shares, sharesOf] = [keptOf(state.rho), state.rho];
    const box = { left: 48, right: width - 10, top: 10, bottom: Math.round(Math.min(420, 0.75 * width)) };
    const across = (gap) => box.left + (gap / 0.405) * (box.right - box.left);
    const up = (auroc) => box.bottom - ((auroc - 0.49) / 0.5) * (box.bottom - box.top);
    let svg = "";
    shares.forEach((row, r) =>
      row.forEach((kept, c) => {
        const saving = kept - state.price;
        const band = saving <= 0 ? "none" : Math.min(8, 1 + Math.floor(10 * saving + 1e-9));
        const [x, y] = [across(GAPS[c] - 0.005), up(AUROCS[r] + 0.01)];
        const size = { width: across(GAPS[c] + 0.005) - x + 0.5, height: up(AUROCS[r] - 0.01) - y + 0.5 };
        svg += tag("rect", { class: `band-${band}`, x, y, ...size });
      }),
    );
    svg += frontier(across, up);
    for (const gap of [0, 0.1, 0.2, 0.3, 0.4])
      svg += tag("text", { x: across(gap), y: box.bottom + 17, "text-anchor": "middle" }, gap.toFixed(1));
    for (const auroc of [0.5, 0.6, 0.7, 0.8, 0.9])
      svg += tag("text", { x: box.left - 6, y: up(auroc) + 4, "text-anchor": "end" }, auroc.toFixed(1));
    const middle = (box.left + box.right) / 2;
    svg += tag("text", { class: "axis", x: middle, y: box.bottom + 38, "text-anchor": "middle" }, "gap");
    const turned = `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`;
    svg += tag("text", { class: "axis", x: 0, y: 0, "text-anchor": "middle", transform: turned }, "AUROC");
    for (const p of data.points) {
      const kind = p.kind === "paper" ? "star" : (MARKS[p.system] ?? "circle");
      svg += tag("path", { class: `pair ${p.kind}`, d: mark(kind, across(p.gap), up(p.auroc)) });
    }
    svg += tag("circle", { class: "here", cx: across(state.gap), cy: up(state.auroc), r: 9 });
    const size = { viewBox: `0 0 ${width} ${box.bottom + 46}`, width, height: box.bottom + 46, "aria-hidden": "true" };
    byId("map-plot").innerHTML = tag("svg", size, svg);
  }

  /** Where a cascade saves as much as a coin: by gap, the AUROC at which the difference turns. */
  function frontier(across, up) {
    const points = GAPS.flatMap((gap, c) => {
      const over = shares.map((row) => row[c] - state.price - model.coin(gap, state.price));
      const r = over.findIndex((value) => value > 0);
      if (gap <= 0.02 || r < 1) return [];
      const share = over[r - 1] / (over[r - 1] - over[r]);
      return [`${across(gap).toFixed(1)} ${up(AUROCS[r - 1] + 0.02 * share).toFixed(1)}`];
    });
    return points.length ? tag("path", { class: "frontier", d: `M${points.join("L")}` }) : "";
  }

  build();
  change(state);
})();
