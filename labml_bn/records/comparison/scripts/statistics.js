// Means over runs with their 95 % intervals, smoothing, and the final and the best value of a metric.

/** Of the values that are not null: n, the mean, and its 95 % interval by Student's t; null if there is none. */
function estimate(all) {
  const values = all.filter((value) => value !== null);
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  if (n < 2) return {n, mean: n ? mean : null, low: null, high: null};
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const half = data.t[n - 2] * Math.sqrt(squares / (n - 1) / n);
  return {n, mean, low: mean - half, high: mean + half};
}

/** An exponential moving average, whose start is not biased towards zero. A weight of 0 changes nothing. */
function smoothed(values, weight) {
  if (weight === 0) return values;
  let sum = 0;
  let weights = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    weights = weight * weights + (1 - weight);
    return sum / weights;
  });
}

/** Curves at the steps that all of them have: {steps, rows}, one row of values for each step, null for impossible ones. */
function common(curves) {
  const found = new Map();
  for (const {steps, values} of curves) {
    steps.forEach((step, index) => {
      if (!found.has(step)) found.set(step, []);
      found.get(step).push(values[index]);
    });
  }
  const all = [...found].filter(([, row]) => row.length === curves.length).sort(([one], [other]) => one - other);
  return {steps: all.map(([step]) => step), rows: all.map(([, row]) => row)};
}

/** The mean of curves with its interval at their common steps: {steps, mean, low, high}. */
function meanCurve(curves) {
  const {steps, rows} = common(curves);
  const estimates = rows.map(estimate);
  const part = (name) => estimates.map((one) => one[name]);
  return {steps, mean: part("mean"), low: part("low"), high: part("high")};
}

/** The final value of a run's metric, and its best one (results.py has the rules), both up to the step `last`. */
function resultsOf(run, name, last) {
  const curve = curveOf(run, name);
  if (!curve) return {final: null, best: null};
  if (last >= curve.steps.at(-1)) return {final: run.results[name] ?? null, best: run.results[`best.${name}`] ?? null};
  const end = curve.steps.findLastIndex((step) => step <= last) + 1;
  const values = curve.values.slice(0, end);
  const [kind, images] = name.split(".");
  const heldOut = images === "test" && curveOf(run, `${kind}.held_out`);
  const chosenBy = heldOut ? heldOut.values.slice(0, end) : values;
  const sign = kind === "loss" ? -1 : 1;
  let best = null;
  chosenBy.forEach((value, index) => {
    if (value !== null && (best === null || sign * value > sign * chosenBy[best])) best = index;
  });
  return {final: values.at(-1) ?? null, best: best === null ? null : values[best]};
}
