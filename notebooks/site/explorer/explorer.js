// The threshold explorer's page: controls, numbers and pictures around compute.js.  The state lives in the URL's hash.
(function () {
  "use strict";

  const data = globalThis.COREA_RECORDS;
  const cascade = globalThis.CoreaCascade;
  const byId = (id) => document.getElementById(id);

  const NAMES = {
    "in-domain": "In domain",
    "ood-math": "OOD math",
    "ood-nonmath": "OOD non-math",
    "L1-SLM": "L1-SLM (COREA)",
    "RLVR-SLM": "RLVR-SLM",
    SLM: "Base SLM",
    Verb: "Stated",
    AvgProb: "Token probability",
    Digits: "Numeral expectation",
    Probe: "Probe",
    Gain: "Deferral gain",
  };
  const AXIS = {
    Verb: "stated confidence (probability)",
    AvgProb: "mean token probability",
    Digits: "expectation over numerals (probability)",
    Probe: "probe's confidence (probability)",
    Gain: "score (no probability: it ranks only)",
  };
  const EFFECTS = {
    "both right": "Both are right: asking the large model only costs.",
    "both wrong": "Both are wrong: asking the large model only costs.",
    "only the SLM is right": "Only the small model is right: deferring loses it.",
    "only the LLM is right": "Only the large model is right: deferring mends it.",
  };
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;

  let state = cascade.readState(data, location.hash);
  let parts = [];
  let others = [];
  let sorted = [];
  let speaking = 0;

  // --- controls ---------------------------------------------------------------------------------

  function choices(name, values) {
    const box = byId(`choose-${name}`);
    for (const value of values) {
      const id = `${name}-${value}`;
      box.insertAdjacentHTML(
        "beforeend",
        `<input type="radio" name="${name}" id="${id}" value="${value}"><label for="${id}">${NAMES[value] ?? value}</label>`,
      );
    }
    box.addEventListener("change", (event) => change({ [name]: event.target.value }));
  }

  function build() {
    const first = Object.values(data.datasets)[0].slms;
    const slms = Object.keys(first);
    choices("group", Object.keys(data.groups));
    choices("slm", slms);
    choices(
      "source",
      Object.keys(first[slms[0]]).filter((name) => name !== "outcome"),
    );
    byId("threshold").max = data.steps + 1;
    byId("threshold").addEventListener("input", (event) => change({ n: Number(event.target.value) }));
    byId("ratio").addEventListener("input", (event) => change({ ratio: Number(event.target.value) }));
    byId("paper-rule").textContent = `The paper's rule (${cascade.thresholdText(data, data.threshold)})`;
    const moves = {
      "previous-change": () => cascade.nextChange(parts, state.n, -1),
      "next-change": () => cascade.nextChange(parts, state.n, 1),
      "paper-rule": () => data.threshold,
      "keep-all": () => 0,
      "defer-all": () => data.steps + 1,
    };
    for (const [id, move] of Object.entries(moves)) byId(id).addEventListener("click", () => change({ n: move() }));
    addEventListener("hashchange", () => change(cascade.readState(data, location.hash)));
    new ResizeObserver(draw).observe(byId("curve"));
    byId("explorer").hidden = false;
  }

  /** Go to a state: work out what it needs, show it, and write it into the URL. */
  function change(changes) {
    const isOther = ["group", "slm", "source"].some((name) => name in changes);
    state = { ...state, ...changes };
    if (isOther) {
      const sources = Object.keys(Object.values(data.datasets)[0].slms[state.slm]).filter((name) => name !== "outcome");
      others = sources.map((source) => cascade.groupSums(data, state.group, state.slm, source));
      parts = others[sources.indexOf(state.source)];
      sorted = cascade.examples(data, state.group, state.slm, state.source);
    }
    for (const name of ["group", "slm", "source"]) byId(`${name}-${state[name]}`).checked = true;
    byId("threshold").value = state.n;
    byId("ratio").value = state.ratio;
    history.replaceState(null, "", cascade.writeState(data, state));
    show();
    draw();
  }

  // --- numbers ----------------------------------------------------------------------------------

  const thresholdName = () => (state.n > data.steps ? "defer all" : cascade.thresholdText(data, state.n));
  const direction = (value, less, more) => (Math.abs(value) < 0.0005 ? null : value > 0 ? less : more);

  function put(id, value, text, note) {
    byId(id).dataset.value = value;
    byId(id).textContent = text;
    byId(`${id}-note`).textContent = note;
  }

  function show() {
    const now = cascade.point(parts, state.ratio, state.n);
    const cheaper = direction(1 - now.cost, "less than", "more than");
    const worse = direction(now.drop, "below", "above");
    const keptRight = now.kept ? now.keptRight / now.kept : NaN;
    const costNote = cheaper ? `${percent(Math.abs(1 - now.cost))} ${cheaper} the LLM alone` : "as much as the LLM alone";
    const passNote = worse ? `${Math.abs(100 * now.drop).toFixed(1)} points ${worse} the LLM` : "the same as the LLM";
    put("cost", now.cost, percent(now.cost), costNote);
    put("pass1", now.pass1, percent(now.pass1), `${passNote} (${percent(now.llmPass1)})`);
    put("deferred", now.deferred, percent(now.deferred), "of answers ask the LLM");
    put("kept-right", keptRight, now.kept ? percent(keptRight) : "none kept", `${now.kept} of ${now.rows} answers kept`);
    byId("threshold-shown").textContent = thresholdName();
    byId("threshold").setAttribute("aria-valuetext", thresholdName());
    byId("ratio-shown").textContent = state.ratio.toFixed(3);
    byId("paper-rule").disabled = data.calibration[state.group][`${state.slm}-${state.source}`].ece === null;
    showFlips();
    speak(
      `Threshold ${thresholdName()}: cost ${percent(now.cost)} of the LLM alone, Pass@1 ${percent(now.pass1)}, ${passNote}, ` +
        `${percent(now.deferred)} deferred.`,
    );
    showTables();
  }

  /** Say the numbers once the slider rests, so that a drag is not read out step by step. */
  function speak(text) {
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      byId("spoken").textContent = text;
    }, 500);
  }

  function showFlips() {
    const found = cascade.flips(sorted, state.n, 3);
    for (const side of ["kept", "deferred"]) {
      byId(`flips-${side}`).replaceChildren(...found[side].map(flip));
      if (!found[side].length) byId(`flips-${side}`).append(element("li", "explorer-none", `No example is ${side}.`));
    }
  }

  function element(kind, name, text) {
    const made = document.createElement(kind);
    made.className = name;
    made.textContent = text;
    return made;
  }

  /** One example: question and both answers, as text alone, since a model may have written anything. */
  function flip(example) {
    const item = element("li", "explorer-example", "");
    const shown = (answer) => answer ?? "(no answer)";
    const mark = (isRight) => (isRight ? "right" : "wrong");
    item.append(element("p", "explorer-question", example.question));
    const list = document.createElement("dl");
    for (const [who, answer, isRight] of [
      ["Small", example.answer, example.slmRight],
      ["Large", example.answers.LLM, example.llmRight],
    ]) {
      list.append(element("dt", "", who), element("dd", mark(isRight), `${shown(answer)} (${mark(isRight)})`));
    }
    list.append(element("dt", "", "Confidence"), element("dd", "", (example.confidence / data.steps).toFixed(3)));
    item.append(list, element("p", "explorer-effect", EFFECTS[example.effect]));
    return item;
  }

  function row(kind, cells) {
    return `<tr>${cells.map((cell) => `<${kind}${kind === "th" ? ' scope="col"' : ""}>${cell}</${kind}>`).join("")}</tr>`;
  }

  function showTables() {
    const steps = Array.from({ length: 11 }, (_, n) => (n * data.steps) / 10).concat(data.steps + 1);
    const points = steps.map((n) => [n, cascade.point(parts, state.ratio, n)]);
    byId("curve-table").innerHTML =
      `<caption>The curve at every tenth</caption>` +
      row("th", ["threshold", "cost, % of the LLM alone", "Pass@1, %", "deferred, %"]) +
      points
        .map(([n, p]) =>
          row("td", [cascade.thresholdText(data, n), ...[p.cost, p.pass1, p.deferred].map((v) => (100 * v).toFixed(1))]),
        )
        .join("");
    const { bins } = data.calibration[state.group][`${state.slm}-${state.source}`];
    byId("reliability-table").innerHTML =
      `<caption>The reliability diagram, bin by bin</caption>` +
      row("th", ["from", "to", "answers", "mean confidence", "share right"]) +
      bins
        .map(([low, high, count, at, share]) =>
          row("td", [low.toFixed(1), high.toFixed(1), count, at.toFixed(3), share.toFixed(3)]),
        )
        .join("");
  }

  // --- pictures ---------------------------------------------------------------------------------

  const tag = (name, attributes, text = "") =>
    `<${name} ${Object.entries(attributes)
      .map(([key, value]) => `${key}="${value}"`)
      .join(" ")}>${text}</${name}>`;

  /** A plot's frame: scales, gridlines, ticks and axis titles. */
  function frame(width, { x, y, xTitle, yTitle, format }) {
    const box = { left: 52, right: width - 12, top: 12, bottom: Math.round(Math.min(330, 0.8 * width)) - 46 };
    const height = box.bottom + 46;
    const across = (value) => box.left + ((value - x.low) / (x.high - x.low)) * (box.right - box.left);
    const up = (value) => box.bottom - ((value - y.low) / (y.high - y.low)) * (box.bottom - box.top);
    const ticks = ({ low, high, step }) =>
      Array.from({ length: Math.round((high - low) / step) + 1 }, (_, n) => low + n * step);
    let svg = "";
    for (const value of ticks(y)) {
      svg += tag("line", { class: "grid", x1: box.left, x2: box.right, y1: up(value), y2: up(value) });
      svg += tag("text", { x: box.left - 7, y: up(value) + 4, "text-anchor": "end" }, format(value));
    }
    for (const value of ticks(x)) {
      svg += tag("line", { class: "grid", x1: across(value), x2: across(value), y1: box.top, y2: box.bottom });
      svg += tag("text", { x: across(value), y: box.bottom + 17, "text-anchor": "middle" }, format(value));
    }
    const middle = { x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2 };
    svg += tag("text", { class: "axis", x: middle.x, y: height - 6, "text-anchor": "middle" }, xTitle);
    svg += tag(
      "text",
      { class: "axis", x: 0, y: 0, "text-anchor": "middle", transform: `translate(13 ${middle.y}) rotate(-90)` },
      yTitle,
    );
    return { svg, across, up, box, height };
  }

  const path = (plot, points) =>
    points.map((p, n) => `${n ? "L" : "M"}${plot.across(p.cost).toFixed(1)} ${plot.up(p.pass1).toFixed(1)}`).join("");

  function range(values, step) {
    return {
      low: Math.floor(Math.min(...values) / step + 1e-9) * step,
      high: Math.ceil(Math.max(...values) / step - 1e-9) * step,
      step,
    };
  }

  function drawCurve(width) {
    const curves = others.map((sums) => cascade.curve(sums, state.ratio));
    const now = cascade.point(parts, state.ratio, state.n);
    const ends = cascade.alone(parts, state.ratio);
    const all = [...curves.flat(), ...Object.values(ends)];
    const x = range([0, ...all.map((p) => p.cost)], width < 420 && state.ratio > 0.5 ? 0.5 : 0.25);
    const heights = all.flatMap((p) => [p.pass1, p.pass1 - 0.02]); // room for the name under the lowest point
    const y = range(heights, Math.max(...heights) - Math.min(...heights) > 0.3 ? 0.1 : 0.05);
    const plot = frame(width, {
      x,
      y,
      xTitle: "cost (% of the LLM alone)",
      yTitle: "Pass@1 (%)",
      format: (value) => (100 * value).toFixed(0),
    });
    let svg = plot.svg;
    const level = plot.up(ends.llm.pass1);
    svg += tag("line", { class: "level", x1: plot.box.left, x2: plot.box.right, y1: level, y2: level });
    svg += tag("path", { class: "random", d: path(plot, [ends.slm, ends.both]) });
    curves.forEach((curve, n) => {
      if (others[n] !== parts) svg += tag("path", { class: "other", d: path(plot, curve) });
    });
    svg += tag("path", { class: "chosen", d: path(plot, curves[others.indexOf(parts)]) });
    svg += tag("path", {
      class: "slm",
      d: `M${plot.across(ends.slm.cost) - 5} ${plot.up(ends.slm.pass1) - 5}l10 10m0 -10l-10 10`,
    });
    svg += tag(
      "text",
      { class: "name", x: plot.across(ends.slm.cost), y: plot.up(ends.slm.pass1) + 19, "text-anchor": "middle" },
      "SLM alone",
    );
    svg += tag("path", { class: "llm", d: `M${plot.across(1)} ${level - 7}l7 7l-7 7l-7 -7z` });
    svg += tag("text", { class: "name", x: plot.across(1), y: level - 12, "text-anchor": "middle" }, "LLM alone");
    svg += tag("circle", { class: "point", cx: plot.across(now.cost), cy: plot.up(now.pass1), r: 7 });
    byId("curve").innerHTML = tag(
      "svg",
      { viewBox: `0 0 ${width} ${plot.height}`, width, height: plot.height, "aria-hidden": "true" },
      svg,
    );
    byId("curve-text").textContent =
      `The point: Pass@1 ${percent(now.pass1)} at ${percent(now.cost)} of the LLM's cost. ` +
      "Pale lines: this model's other sources. Dashed: deferring at random. Up and left is better.";
  }

  function drawReliability(width) {
    const found = data.calibration[state.group][`${state.slm}-${state.source}`];
    const isScore = found.ece === null;
    const unit = { low: 0, high: 1, step: width < 380 ? 0.25 : 0.2 };
    const format = (value) => value.toFixed(width < 380 ? 2 : 1);
    const plot = frame(width, { x: unit, y: unit, xTitle: AXIS[state.source], yTitle: "share right", format });
    let svg = plot.svg;
    if (!isScore)
      svg += tag("line", { class: "random", x1: plot.across(0), y1: plot.up(0), x2: plot.across(1), y2: plot.up(1) });
    const total = found.bins.reduce((sum, bin) => sum + bin[2], 0);
    const at = Math.min(1, state.n / data.steps);
    svg += tag("path", {
      class: "join",
      d: found.bins.map(([, , , c, share], n) => `${n ? "L" : "M"}${plot.across(c)} ${plot.up(share)}`).join(""),
    });
    for (const [low, high, count, confidence, share] of found.bins) {
      const kept = state.n > data.steps || high <= at ? "" : low >= at ? " kept" : " part";
      const radius = 2.5 + 15 * Math.sqrt(count / total);
      svg += tag("circle", { class: `bin${kept}`, cx: plot.across(confidence), cy: plot.up(share), r: radius.toFixed(1) });
    }
    const line = plot.across(at);
    svg += tag("line", { class: "threshold", x1: line, x2: line, y1: plot.box.top, y2: plot.box.bottom });
    byId("reliability").innerHTML = tag(
      "svg",
      { viewBox: `0 0 ${width} ${plot.height}`, width, height: plot.height, "aria-hidden": "true" },
      svg,
    );
    const error = isScore ? "A score has no ECE." : `ECE ${found.ece.toFixed(3)}.`;
    const areas = "Areas: answers in a bin of a tenth; filled where kept, pale where some are.";
    byId("reliability-text").textContent =
      `${error} AUROC ${found.auroc.toFixed(3)}. ${areas}${isScore ? "" : " Dashed: confidence equals accuracy."}`;
  }

  /** Answers by confidence, in fiftieths, above the threshold's slider and on its scale. */
  function drawHistogram(width) {
    const bars = 50;
    const height = 64;
    const pad = 9; // half the slider's thumb: where its centre stands at either end
    const step = data.steps / bars;
    const sum = (name, n) => parts.reduce((total, part) => total + part[name][n], 0);
    const found = Array.from({ length: bars }, (_, bar) => {
      const from = bar * step;
      const to = bar === bars - 1 ? data.steps + 1 : from + step;
      return { from, count: sum("kept", from) - sum("kept", to), right: sum("keptRight", from) - sum("keptRight", to) };
    });
    const most = Math.max(...found.map((bar) => bar.count), 1);
    const scale = (count) => (height - 2) * Math.sqrt(count / most);
    const across = (n) => pad + (n / (data.steps + 1)) * (width - 2 * pad);
    let svg = "";
    for (const { from, count, right } of found) {
      const kept = from + step > state.n ? "kept" : "deferred";
      const [whole, lower] = [scale(count), count ? (scale(count) * right) / count : 0];
      const place = { x: across(from) + 0.5, width: Math.max(1, across(from + step) - across(from) - 1) };
      svg += tag("rect", { class: `wrong ${kept}`, ...place, y: height - whole, height: whole - lower });
      svg += tag("rect", { class: `right ${kept}`, ...place, y: height - lower, height: lower });
    }
    svg += tag("line", { class: "threshold", x1: across(state.n), x2: across(state.n), y1: 0, y2: height });
    byId("histogram").innerHTML = tag("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, svg);
  }

  function draw() {
    drawHistogram(byId("histogram").clientWidth);
    drawCurve(byId("curve").clientWidth);
    drawReliability(byId("reliability").clientWidth);
  }

  build();
  change(state);
})();
