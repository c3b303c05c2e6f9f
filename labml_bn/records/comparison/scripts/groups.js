// Which runs belong together, what their group is called, and which of them count in its means.

const BY_SETTINGS = "settings but the seed";
const BY_RUN = "each run";
const BY_SWEEP = "sweep";

/** The metric of which a run must have a value to count in means, if others of its group have one. */
const TESTED = "accuracy.test";

/** Compared settings that differ between some runs, the normalization first. */
function differing(runs) {
  const found = data.keys.filter(({key, isCompared}) =>
    isCompared && new Set(runs.map((run) => run.settings[key])).size > 1);
  return found.sort((one, other) => (other.key === "norm") - (one.key === "norm"));
}

/** What runs can be grouped by. */
function groupings() {
  const hasSweeps = data.runs.some((run) => run.sweep !== null);
  return [BY_SETTINGS, BY_RUN, ...(hasSweeps ? [BY_SWEEP] : []), ...differing(data.runs).map(({key}) => key)];
}

/**
 * The groups of `shown`, some of the runs of the page: {id, label, number, runs, counted, diverged, repeated, untested,
 * missing}.
 *
 * `counted` are the runs in the means. Runs that diverged are not, nor is a run after which the same settings and the
 * same seed were run again, nor one that has not been tested yet if others have. `missing` is how many runs of the group
 * are not in `shown`. The labels and numbers, and so the colours, are those of all runs of the page.
 */
function grouped(shown, by) {
  const groups = new Map();
  for (const run of data.runs) {
    const id = groupOf(run, by);
    if (!groups.has(id)) groups.set(id, {id, number: groups.size, all: []});
    groups.get(id).all.push(run);
  }
  label([...groups.values()], by);
  const isShown = new Set(shown);
  return [...groups.values()].map((group) => {
    const runs = group.all.filter((run) => isShown.has(run));
    return {...group, runs, missing: group.all.length - runs.length, ...counting(runs, by)};
  }).filter((group) => group.runs.length);
}

/** Which of a group's runs are in its means, and why others are not. */
function counting(runs, by) {
  if (by === BY_RUN) return {counted: runs, diverged: [], repeated: [], untested: []};
  const repeated = repeatedOf(runs);
  const diverged = runs.filter((run) => run.status === data.diverged && !repeated.includes(run));
  const rest = runs.filter((run) => !repeated.includes(run) && !diverged.includes(run));
  const tested = rest.filter((run) => curveOf(run, TESTED));
  const untested = tested.length ? rest.filter((run) => !tested.includes(run)) : [];
  return {counted: tested.length ? tested : rest, diverged, repeated, untested};
}

function settingsOf(run, without = []) {
  return JSON.stringify(data.keys.filter(({key, isCompared}) => isCompared && !without.includes(key))
    .map(({key}) => run.settings[key]));
}

function groupOf(run, by) {
  if (by === BY_RUN) return run.key;
  if (by === BY_SWEEP) return run.sweep ?? "";
  return by === BY_SETTINGS ? settingsOf(run, [data.seed]) : run.settings[by];
}

/** Name groups: by the name that the user has given all runs of one, or else by what differs between the groups. */
function label(groups, by) {
  const names = differing(data.runs).filter(({key}) => key !== data.seed);
  const given = groups.map(({all}) => (all.every(({name}) => name === all[0].name) ? all[0].name : ""));
  groups.forEach((group, index) => {
    const isGiven = given[index] && given.filter((name) => name === given[index]).length === 1;
    group.label = by === BY_SETTINGS && isGiven ? given[index] : labelOf(group.all[0], by, names);
  });
}

function labelOf(run, by, names) {
  if (by === BY_RUN) return labelOfRun(run);
  if (by === BY_SWEEP) return run.sweep ?? "no sweep";
  if (by !== BY_SETTINGS) return `${data.keys.find(({key}) => key === by).short}=${run.settings[by]}`;
  return wordsOf(run, names) || run.groupName;
}

function wordsOf(run, keys) {
  return keys.map(({key, short}) => wordOf(key, short, run.settings[key])).join(" ");
}

/** The beginning of a run's folder, and its name, or else the settings in which it differs from other runs. */
function labelOfRun(run) {
  return `${run.id} ${run.name || wordsOf(run, differing(data.runs)) || run.groupName}`;
}

function wordOf(key, short, value) {
  if (key !== "norm") return `${short}=${value}`;
  return {none: "no_norm", torch: "torch_norm"}[value] ?? value;
}

/** Runs after which the same was run again: the newest one counts. */
function repeatedOf(runs) {
  const byTime = [...runs].sort((one, other) => one.started - other.started);
  const last = new Map(byTime.map((run) => [settingsOf(run), run]));
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
  const part = (kind) => estimate(found.map((one) => one[kind]));
  return {final: part("final"), best: part("best")};
}
