// The table: a row a group, with the rows of its runs on demand; sorted by any column.

const RESULTS = ["accuracy.test", "loss.test"];

/** All columns that there can be: {id, label, title, ofGroup, ofRun, isNumber, isDefault}. */
function allColumns(by) {
  const results = new Set(data.runs.flatMap((run) => Object.keys(run.results)));
  const columns = [
    {id: "n", label: "n", title: "runs in the means", isNumber: true, isDefault: true,
     ofGroup: (group) => [group.counted.length, countText(group)], ofRun: (run) => [null, run.status]},
  ];
  for (const name of [...results].filter((one) => !one.startsWith("best.")).sort(testFirst)) {
    for (const kind of ["final", "best"]) {
      columns.push({
        id: `${kind} ${name}`, label: `${kind} ${name}`, isNumber: true, isDefault: RESULTS.includes(name),
        title: kind === "final" ? "at the last step" : "at the best epoch on the held-out images, if any",
        ofGroup: (group) => {
          const found = resultsOfGroup(group, name)[kind];
          return [found.mean, estimateText(name, found)];
        },
        ofRun: (run) => {
          const value = run.results[kind === "best" ? `best.${name}` : name] ?? null;
          return [value, valueText(name, value)];
        },
      });
    }
  }
  columns.push({
    id: "time", label: "time", title: "of training; none for a group whose runs have different lengths", isNumber: true, isDefault: true,
    ofGroup: (group) => {
      const isSameLength = new Set(group.counted.map((run) => curveOf(run, TESTED)?.steps.length)).size === 1;
      const {mean, low, high} = estimate(isSameLength ? group.counted.map((run) => run.time) : []);
      const half = low === null ? "" : ` ± ${durationText((high - low) / 2)}`;
      return [mean, mean === null ? "–" : `${durationText(mean)}${half}`];
    },
    ofRun: (run) => [run.time, durationText(run.time)],
  });
  const isVaried = new Set(differing(data.runs).map(({key}) => key));
  for (const {key, short, meaning} of data.keys) {
    columns.push(textColumn(`setting ${key}`, short, meaning, (run) => [run.settings[key]],
      isVaried.has(key) && !(key === data.seed && by !== BY_RUN)));
  }
  columns.push(
    textColumn("started", "started", "", (run) => [new Date(1000 * run.started).toISOString().slice(0, 16).replace("T", " ")], false),
    textColumn("sweep", "sweep", "", (run) => (run.sweep === null ? [] : [run.sweep]), new Set(data.runs.map((run) => run.sweep)).size > 1),
    textColumn("tags", "tags", "", (run) => run.tags, data.runs.some((run) => run.tags.length)),
    textColumn("note", "note", "", (run) => (run.note ? [run.note] : []), data.runs.some((run) => run.note)));
  return columns;
}

/** A column of a setting or a text: of a group, every value that its runs have. */
function textColumn(id, label, title, valuesOf, isDefault) {
  const shown = (values) => {
    const all = [...new Set(values)];
    const text = all.length > 4 ? `${all.slice(0, 3).join(", ")}, … (${all.length})` : all.join(", ");
    const number = all.length === 1 ? numberOf(all[0]) : NaN;
    return [Number.isNaN(number) ? text : number, text];
  };
  return {id, label, title, isDefault, isNumber: false,
    ofGroup: (group) => shown(group.runs.flatMap(valuesOf)), ofRun: (run) => shown(valuesOf(run))};
}

function testFirst(one, other) {
  return RESULTS.includes(other) - RESULTS.includes(one) || one.localeCompare(other);
}

/** How many runs count, and why others do not: `4, 1 diverged`. */
function countText(group) {
  const running = group.counted.filter((run) => run.status === "running").length;
  const parts = [
    [running, "running"], [group.diverged.length, "diverged, left out"], [group.repeated.length, "repeated, left out"],
    [group.untested.length, "not tested yet, left out"], [group.missing, "filtered out"],
  ];
  const words = parts.filter(([count]) => count).map(([count, word]) => `${count} ${word}`);
  return [String(group.counted.length), ...words].join(", ");
}

/** Sort rows [[value, text], …] of things by a column: numbers, then texts; what has no value is last. */
function sorted(things, valueOf, isDescending) {
  const rank = (value) => (value === null || value === "" ? 2 : typeof value === "string" ? 1 : 0);
  const sign = isDescending ? -1 : 1;
  return [...things].sort((one, other) => {
    const [left, right] = [valueOf(one)[0], valueOf(other)[0]];
    if (rank(left) !== rank(right) || rank(left) === 2) return rank(left) - rank(right);
    return sign * (typeof left === "string" ? left.localeCompare(right) : left - right);
  });
}
