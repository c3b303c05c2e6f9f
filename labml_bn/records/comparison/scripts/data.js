// The data of the page, as page_data.py made it. Packed numbers are unpacked when they are first needed.

let data;

/** Replace the data by newer ones. */
function load(json) {
  data = JSON.parse(json);
  const seen = new Map();
  for (const run of data.runs) {
    seen.set(run.uuid, (seen.get(run.uuid) ?? 0) + 1);
    run.key = `${run.uuid} ${seen.get(run.uuid)}`; // folders in different places can have the same name
    run.unpacked = new Map();
  }
}

/** A loss or accuracy of a run: {steps, values}, null for values that are not drawn. None if the run has not logged it. */
function curveOf(run, name) {
  const found = run.metrics[name];
  return found && {steps: data.steps[found.steps], values: found.values};
}

/** The percentiles of a distribution, with minimum and maximum around them: {steps, bands}, or undefined. */
function bandsOf(run, name) {
  const found = run.distributions[name];
  if (!found) return undefined;
  const steps = data.steps[found.steps];
  const all = unpacked(run, name, "bands");
  const count = data.percentiles.length + 2;
  return {steps, bands: Array.from({length: count}, (_, band) => numbers(all, band * steps.length, 1, steps.length))};
}

/** The channels of a distribution: {steps, channels}, the latter a list of values for each channel; or undefined. */
function channelsOf(run, name) {
  const found = run.distributions[name];
  if (!found) return undefined;
  const steps = data.steps[found.channelSteps];
  const all = unpacked(run, name, "values");
  const channels = Array.from({length: found.channels}, (_, channel) =>
    numbers(all, channel, found.channels, steps.length));
  return {steps, channels};
}

function unpacked(run, name, part) {
  const key = `${part} ${name}`;
  if (!run.unpacked.has(key)) {
    const bytes = Uint8Array.from(atob(run.distributions[name][part]), (character) => character.charCodeAt(0));
    run.unpacked.set(key, new Float32Array(bytes.buffer));
  }
  return run.unpacked.get(key);
}

/** Every `distance`-th number from `start` on, `count` of them; null for NaN and infinity. */
function numbers(all, start, distance, count) {
  return Array.from({length: count}, (_, index) => {
    const value = all[start + index * distance];
    return Number.isFinite(value) ? value : null;
  });
}

/** The names of all metrics with one value per step, those of the test and training images first. */
function metricNames() {
  const first = ["accuracy.test", "loss.test", "accuracy.train", "loss.train"];
  const all = new Set(data.runs.flatMap((run) => Object.keys(run.metrics)));
  return [...first.filter((name) => all.has(name)), ...[...all].filter((name) => !first.includes(name)).sort()];
}

/** The names of all metrics with several values per step. */
function distributionNames() {
  return [...new Set(data.runs.flatMap((run) => Object.keys(run.distributions)))].sort();
}

/** The layer and the statistic in a distribution's name: bn.conv1.running_mean, gradient.conv1.weight. */
function partsOf(name) {
  const words = name.split(".");
  if (words.length < 3) return {layer: "", statistic: name};
  const [kind, last] = [words[0], words[words.length - 1].replaceAll("_", " ")];
  return {layer: words.slice(1, -1).join("."), statistic: kind === "bn" ? last : `${kind} of ${last}`};
}
