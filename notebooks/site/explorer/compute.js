// The cascade's numbers from packed records, as corea.cascade.sweep and corea.analysis.systems.mean_curve give them.
// Nothing here touches a page: node runs it too (tests/test_site.py).
(function (scope) {
  "use strict";

  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const NO_CONFIDENCE = 4095;

  /** Whole numbers from two characters of base64 each; see corea.explorer.pack. */
  function unpack(text) {
    const value = new Map([...ALPHABET].map((letter, n) => [letter, n]));
    return Uint16Array.from(
      { length: text.length / 2 },
      (_, n) => 64 * value.get(text[2 * n]) + value.get(text[2 * n + 1]),
    );
  }

  /** The arrays of one dataset: outcomes of the LLM and the SLM, and the SLM's confidences in steps. */
  function columns(data, dataset, slm, source) {
    const packed = data.datasets[dataset];
    const key = `${slm}/${source}`;
    packed.unpacked ??= { llm: unpack(packed.llm) };
    packed.unpacked[slm] ??= unpack(packed.slms[slm].outcome);
    packed.unpacked[key] ??= unpack(packed.slms[slm][source]);
    return { llm: packed.unpacked.llm, slm: packed.unpacked[slm], confidence: packed.unpacked[key] };
  }

  const right = (outcome) => outcome & 1;
  const tokens = (outcome) => outcome >> 1;

  /**
   * Sums of one dataset at every threshold: entry n of an array is for the threshold n / steps, the last one for deferring
   * all.  kept: answers kept; gained: how many more of them the SLM has right than the LLM; keptRight: those it has right;
   * spared: LLM tokens not paid.
   */
  function sums(data, dataset, slm, source) {
    const found = columns(data, dataset, slm, source);
    const last = data.steps + 1;
    const at = () => new Float64Array(last + 1);
    const total = { rows: found.llm.length, slmTokens: 0, llmTokens: 0, slmRight: 0, llmRight: 0 };
    const kept = at(),
      gained = at(),
      keptRight = at(),
      spared = at();
    found.llm.forEach((llm, row) => {
      const own = found.slm[row];
      total.slmTokens += tokens(own);
      total.llmTokens += tokens(llm);
      total.slmRight += right(own);
      total.llmRight += right(llm);
      const level = found.confidence[row];
      if (level === NO_CONFIDENCE) return;
      kept[level] += 1;
      gained[level] += right(own) - right(llm);
      keptRight[level] += right(own);
      spared[level] += tokens(llm);
    });
    // An answer is kept at every threshold up to its confidence, so each entry adds those above it.
    for (const column of [kept, gained, keptRight, spared]) {
      for (let n = last - 1; n >= 0; n -= 1) column[n] += column[n + 1];
    }
    return { ...total, kept, gained, keptRight, spared };
  }

  /** The sums of each dataset of a group. */
  function groupSums(data, group, slm, source) {
    return data.groups[group].map((dataset) => sums(data, dataset, slm, source));
  }

  const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length;

  /**
   * The cascade at one threshold: plain means over the datasets.  cost: a share of the LLM's alone; pass1; llmPass1; drop:
   * the LLM's Pass@1 less the cascade's; deferred: the share of answers; kept and keptRight: answers, pooled.
   */
  function point(parts, ratio, n) {
    const over = (value) => mean(parts.map(value));
    const sum = (name) => parts.reduce((total, part) => total + part[name][n], 0);
    const pass1 = over((part) => (part.llmRight + part.gained[n]) / part.rows);
    const llmPass1 = over((part) => part.llmRight / part.rows);
    return {
      cost: over((part) => (ratio * part.slmTokens + part.llmTokens - part.spared[n]) / part.llmTokens),
      pass1,
      llmPass1,
      drop: llmPass1 - pass1,
      deferred: over((part) => (part.rows - part.kept[n]) / part.rows),
      kept: sum("kept"),
      keptRight: sum("keptRight"),
      rows: parts.reduce((total, part) => total + part.rows, 0),
    };
  }

  /** `point` at every threshold, from 0 to deferring all. */
  function curve(parts, ratio) {
    return Array.from({ length: parts[0].kept.length }, (_, n) => point(parts, ratio, n));
  }

  /** Both models alone; the straight line from the SLM to `both` is what deferring at random gives. */
  function alone(parts, ratio) {
    const over = (value) => mean(parts.map(value));
    const slm = {
      cost: over((part) => (ratio * part.slmTokens) / part.llmTokens),
      pass1: over((part) => part.slmRight / part.rows),
    };
    const llm = { cost: 1, pass1: over((part) => part.llmRight / part.rows) };
    return { slm, llm, both: { cost: slm.cost + 1, pass1: llm.pass1 } };
  }

  /**
   * The nearest threshold above (direction 1) or below (-1) at which other answers are kept: the highest that keeps just
   * those, which is one of the confidences themselves.  The same threshold where there is none.
   */
  function nextChange(parts, n, direction) {
    const last = parts[0].kept.length - 1;
    const same = (a, b) => parts.every((part) => part.kept[a] === part.kept[b]);
    let to = n + direction;
    while (to >= 0 && to <= last && same(n, to)) to += direction;
    if (to < 0 || to > last) return n;
    while (to < last && same(to, to + 1)) to += 1;
    return to;
  }

  /** What became of a deferral: the LLM mends an error, breaks a right answer, or changes nothing. */
  function effect(slmRight, llmRight) {
    if (slmRight === llmRight) return slmRight ? "both right" : "both wrong";
    return slmRight ? "only the SLM is right" : "only the LLM is right";
  }

  /** The examples of a group by stated confidence, each with what both models made of it. */
  function examples(data, group, slm, source) {
    const found = data.examples[group].map((example) => {
      const all = columns(data, example.dataset, slm, source);
      const [own, llm] = [right(all.slm[example.row]) === 1, right(all.llm[example.row]) === 1];
      const confidence = all.confidence[example.row];
      return {
        ...example,
        confidence,
        slmRight: own,
        llmRight: llm,
        effect: effect(own, llm),
        answer: example.answers[slm],
      };
    });
    return found.filter((example) => example.confidence !== NO_CONFIDENCE).sort((a, b) => a.confidence - b.confidence);
  }

  /** The `count` examples that a rising threshold defers next, and those that a falling one keeps next. */
  function flips(sorted, n, count) {
    const kept = sorted.filter((example) => example.confidence >= n);
    const deferred = sorted.filter((example) => example.confidence < n);
    return { kept: kept.slice(0, count), deferred: deferred.slice(-count).reverse() };
  }

  /** The state in a URL's hash; what is missing or makes no sense is replaced by the run's own. */
  function readState(data, hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    const one = (name, allowed) => (allowed.includes(given.get(name)) ? given.get(name) : allowed[0]);
    const slms = Object.keys(Object.values(data.datasets)[0].slms);
    const sources = Object.keys(Object.values(data.datasets)[0].slms[slms[0]]).filter((name) => name !== "outcome");
    const ratio = Number.parseFloat(given.get("ratio"));
    const threshold = Number.parseFloat(given.get("threshold"));
    const all = given.get("threshold") === "all";
    return {
      group: one("group", Object.keys(data.groups)),
      slm: one("slm", slms),
      source: one("source", sources),
      ratio: ratio >= 0 && ratio <= 1 ? Math.round(1000 * ratio) / 1000 : Math.round(1000 * data.ratio) / 1000,
      n: all ? data.steps + 1 : threshold >= 0 && threshold <= 1 ? Math.round(threshold * data.steps) : data.threshold,
    };
  }

  /** A threshold as text: its number, or "all" where all is deferred. */
  function thresholdText(data, n) {
    return n > data.steps ? "all" : (n / data.steps).toFixed(3);
  }

  /** The hash of a state. */
  function writeState(data, state) {
    const { group, slm, source, ratio } = state;
    return `#${new URLSearchParams({ group, slm, source, ratio, threshold: thresholdText(data, state.n) })}`;
  }

  const CoreaCascade = {
    unpack,
    sums,
    groupSums,
    point,
    curve,
    alone,
    nextChange,
    examples,
    flips,
    readState,
    writeState,
    thresholdText,
  };
  scope.CoreaCascade = CoreaCascade;
  if (typeof module !== "undefined") module.exports = CoreaCascade;
})(globalThis);
