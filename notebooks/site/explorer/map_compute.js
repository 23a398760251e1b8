// The model behind the map, as corea.analysis.map has it: two accuracies, the errors' correlation, AUROC and price.
// Nothing here touches a page: node runs it too (tests/test_site.py).
(function (scope) {
  "use strict";

  /** The normal distribution's P(below x): a series in the middle, a continued fraction in the tails. */
  function ndtr(x) {
    const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
    if (Math.abs(x) > 4) {
      let tail = Math.abs(x);
      for (let n = 60; n > 0; n -= 1) tail = Math.abs(x) + n / tail;
      return x < 0 ? density / tail : 1 - density / tail;
    }
    let [term, sum] = [x, x];
    for (let n = 3; Math.abs(term) > 1e-17; n += 2) {
      term *= (x * x) / n;
      sum += term;
    }
    return 0.5 + density * sum;
  }

  /** A rising function's place of a value between low and high, by bisection. */
  function solve(rising, target, low, high, steps) {
    for (let n = 0; n < steps; n += 1) {
      const middle = (low + high) / 2;
      if (rising(middle) < target) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  }

  const margin = (p, extreme) => solve(ndtr, p, -extreme, extreme, 60);

  /** The model at one LLM accuracy; `data` is from pack_explorer.map_data. */
  function mapModel(data) {
    const { nodes, weights, shares, within, llm, extreme } = data;
    const margins = shares.map((share) => margin(share, extreme));
    const llmMargin = margin(llm, extreme);

    /** P(a model of this margin is right, and the answer is among the kept), for each share kept. */
    function bothKept(own, accuracy, correlation) {
      const angle = Math.asin(Math.max(-0.99999, Math.min(0.99999, correlation)));
      const sines = nodes.map((node) => Math.sin((angle * (node + 1)) / 2));
      return margins.map((k, n) => {
        let sum = 0;
        sines.forEach((sine, i) => {
          sum += weights[i] * Math.exp((own * k * sine - (own * own + k * k) / 2) / (1 - sine * sine));
        });
        return accuracy * shares[n] + (angle / (4 * Math.PI)) * sum;
      });
    }

    function aurocOf(correlation, own, accuracy) {
      const right = bothKept(own, accuracy, correlation);
      let area = 0;
      for (let n = 1; n < shares.length; n += 1) {
        const wrong = shares[n] - right[n] - (shares[n - 1] - right[n - 1]);
        area += (wrong * (right[n] + right[n - 1])) / 2;
      }
      return area / (accuracy * (1 - accuracy));
    }

    const correlationOf = (auroc, own, accuracy) => solve((c) => aurocOf(c, own, accuracy), auroc, -1, 1, 30);

    /** The losses at every share kept. */
    function losses(own, accuracy, correlation, rho) {
      const kept = bothKept(own, accuracy, correlation);
      return bothKept(llmMargin, llm, correlation * rho).map((right, n) => right - kept[n]);
    }

    /** The largest share that may be kept within the loss allowed, between two shares if need be. */
    function mostKept(loss) {
      for (let n = loss.length - 1; n >= 0; n -= 1) {
        if (loss[n] > within + 1e-12) continue;
        if (n === loss.length - 1) return 1;
        return shares[n] + ((within - loss[n]) / (loss[n + 1] - loss[n])) * (shares[n + 1] - shares[n]);
      }
      return 0;
    }

    const coin = (gap, price) => (1 - price) * Math.min(1, within / Math.max(gap, 1e-9));

    /** What a cascade saves at one place of the map: within the loss, by the paper's rule, and a coin instead. */
    function place({ gap, auroc, rho, price }) {
      const accuracy = llm - gap;
      const own = margin(accuracy, extreme);
      const knows = Math.max(1e-9, correlationOf(auroc, own, accuracy));
      const loss = losses(own, accuracy, knows, rho);
      const kept = mostKept(loss);
      const byRule = ndtr((own - llmMargin * Math.sqrt(1 - knows * knows)) / knows);
      const after = shares.findIndex((share) => share >= byRule);
      const before = Math.max(0, after - 1);
      const share = after > before ? (byRule - shares[before]) / (shares[after] - shares[before]) : 0;
      return {
        saving: kept - price,
        kept,
        coin: coin(gap, price),
        ruleSaving: byRule - price,
        ruleKept: byRule,
        ruleLoss: loss[before] + share * (loss[after] - loss[before]),
      };
    }

    /** The shares that may be kept over a grid of gaps and AUROCs (rows), by rho; what does not depend on rho is kept. */
    function grid(gaps, aurocs) {
      const steps = Array.from({ length: 33 }, (_, n) => Math.sin((Math.PI / 2) * (n / 32)) * 0.9999);
      const columns = gaps.map((gap) => {
        const accuracy = llm - gap;
        const own = margin(accuracy, extreme);
        const found = steps.map((c) => aurocOf(c, own, accuracy));
        return aurocs.map((auroc) => {
          const n = Math.max(1, found.findIndex((value) => value >= auroc));
          const share = (auroc - found[n - 1]) / (found[n] - found[n - 1]);
          const knows = steps[n - 1] + share * (steps[n] - steps[n - 1]);
          return { knows, right: bothKept(own, accuracy, knows) };
        });
      });
      return (rho) =>
        aurocs.map((_, row) =>
          columns.map((column) => {
            const { knows, right } = column[row];
            return mostKept(bothKept(llmMargin, llm, knows * rho).map((value, n) => value - right[n]));
          }),
        );
    }

    return { place, grid, coin };
  }

  /** The state in a URL's hash; what is missing or out of range is replaced by where the map starts. */
  function readState(limits, hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    return Object.fromEntries(
      Object.entries(limits).map(([name, { min, max, start }]) => {
        const value = Number.parseFloat(given.get(name));
        return [name, value >= min && value <= max ? value : start];
      }),
    );
  }

  const CoreaMap = { ndtr, mapModel, readState };
  scope.CoreaMap = CoreaMap;
  if (typeof module !== "undefined") module.exports = CoreaMap;
})(globalThis);
