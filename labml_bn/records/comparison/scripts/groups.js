// Which runs belong together, what their group is called, and which of them count in its means.

const BY_SETTINGS = "settings but the seed";
const BY_RUN = "each run";
const BY_SWEEP = "sweep";

/** Compared settings that differ between some runs. */
function differing(runs) {
  return data.keys.filter(({key, isCompared}) =>
    isCompared && new Set(runs.map((run) => run.settings[key])).size > 1);
}

/** What runs can be grouped by. */
function groupings() {
  const hasSweeps = data.runs.some((run) => run.sweep !== null);
  return [BY_SETTINGS, BY_RUN, ...(hasSweeps ? [BY_SWEEP] : []), ...differing(data.runs).map(({key}) => key)];
}

/**
 * The groups of `shown`, some of the runs of the page: {id, label, number, runs, counted, diverged, repeated, missing}.
 *
 * Runs that diverged are not counted, nor is a run that was repeated with the same settings and the same seed later.
 * `missing` are the runs of the group that are not in `shown`. The numbers, and so the colours, are those of all runs.
 */
function grouped(shown, by) {
  const groups = new Map();
  const names = by === BY_SETTINGS ? differing(data.runs).filter(({key}) => key !== data.seed) : [];
  for (const run of data.runs) {
    const id = groupOf(run, by);
    if (!groups.has(id)) groups.set(id, {id, label: labelOf(run, by, names), number: groups.size, all: []});
    groups.get(id).all.push(run);
  }
  const isShown = new Set(shown);
  return [...groups.values()].map((group) => {
    const runs = group.all.filter((run) => isShown.has(run));
    const repeated = by === BY_RUN ? [] : repeatedOf(runs);
    const diverged = by === BY_RUN ? [] : runs.filter((run) => run.status === data.diverged && !repeated.includes(run));
    const counted = runs.filter((run) => !repeated.includes(run) && !diverged.includes(run));
    return {...group, runs, counted, diverged, repeated, missing: group.all.length - runs.length};
  }).filter((group) => group.runs.length);
}

function settingsOf(run, without = []) {
  return JSON.stringify(data.keys.filter(({key, isCompared}) => isCompared && !without.includes(key))
    .map(({key}) => run.settings[key]));
}

function groupOf(run, by) {
  if (by === BY_RUN) return run.uuid;
  if (by === BY_SWEEP) return run.sweep ?? "";
  return by === BY_SETTINGS ? settingsOf(run, [data.seed]) : run.settings[by];
}

function labelOf(run, by, names) {
  if (by === BY_RUN) return labelOfRun(run);
  if (by === BY_SWEEP) return run.sweep ?? "no sweep";
  if (by !== BY_SETTINGS) return `${data.keys.find(({key}) => key === by).short}=${run.settings[by]}`;
  return names.map(({key, short}) => wordOf(key, short, run.settings[key])).join(" ") || run.groupName;
}

/** The beginning of a run's folder, and its name, or else the settings in which it differs from other runs. */
function labelOfRun(run) {
  const words = differing(data.runs).map(({key, short}) => wordOf(key, short, run.settings[key]));
  return `${run.id} ${run.name || words.join(" ") || run.groupName}`;
}

function wordOf(key, short, value) {
  if (key !== "norm") return `${short}=${value}`;
  return {none: "no_norm", torch: "torch_norm"}[value] ?? value;
}

/** Runs after which the same was run again: the last one counts. */
function repeatedOf(runs) {
  const last = new Map(runs.map((run) => [settingsOf(run), run]));
  return runs.filter((run) => last.get(settingsOf(run)) !== run);
}

/** The mean curve of a group's metric, smoothed in each run first; undefined if no run has logged it. */
function curveOfGroup(group, name, weight) {
  const curves = group.counted.map((run) => curveOf(run, name)).filter(Boolean);
  if (!curves.length) return undefined;
  const found = meanCurve(curves.map(({steps, values}) => ({steps, values: smoothed(values, weight)})));
  const longest = Math.max(...curves.map(({steps}) => steps.at(-1)));
  const last = found.steps.at(-1) ?? 0;
  return {...found, n: curves.length, isCut: curves.some(({steps}) => steps.at(-1) !== longest), last};
}

/** The estimates of a group's final and best value of a metric, at the last step that its counted runs have. */
function resultsOfGroup(group, name) {
  const runs = group.counted.filter((run) => curveOf(run, name));
  const last = Math.min(...runs.map((run) => curveOf(run, name).steps.at(-1)));
  const found = runs.map((run) => resultsOf(run, name, last));
  const part = (kind) => estimate(found.map((one) => one[kind]).filter((value) => value !== null));
  return {final: part("final"), best: part("best")};
}
