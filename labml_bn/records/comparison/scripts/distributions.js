// Distributions over channels, such as running statistics: bands for a run or a group, or a line for each channel.

const ALL_GROUPS = "all";

/** The median of a group's or a run's distribution, with bands of the other percentiles: the mean over its runs. */
function bandsOfRuns(runs, name) {
  const found = runs.map((run) => bandsOf(run, name)).filter(Boolean);
  if (!found.length) return undefined;
  const parts = found[0].bands.map((_, band) => common(found.map(({steps, bands}) => ({steps, values: bands[band]}))));
  const means = parts.map(({rows}) => rows.map((row) => estimate(row).mean));
  const [lowest, low, middle, high, highest] = means;
  return {n: found.length, steps: parts[2].steps, lowest, low, middle, high, highest, isWhole: parts.every(
    ({steps}) => steps.length === parts[2].steps.length)};
}

/** The lines of a distribution for these runs, as `drawChart` takes them: one band, and its extremes if it is alone. */
function distributionLines(runs, name, {label, colour, dash}, isAlone) {
  const found = bandsOfRuns(runs, name);
  if (!found || !found.isWhole) return [];
  const {steps, lowest, low, middle, high, highest} = found;
  const line = {label, colour, dash, steps, values: middle, low, high};
  if (!isAlone) return [line];
  const faint = {colour: faded(colour, 0.6), dash: [2, 4], width: 1, steps};
  return [line, {...faint, label: "maximum", values: highest}, {...faint, label: "minimum", values: lowest}];
}

/** A line for each channel of a run. */
function channelLines(run, name) {
  const found = channelsOf(run, name);
  if (!found) return [];
  const kind = name.startsWith("gradient.") ? (index) => `quantile ${Math.round((100 * index) / (found.channels.length - 1))} %`
    : (index) => `channel ${index}`;
  return found.channels.map((values, index) => ({
    label: kind(index), colour: colourOf(index), dash: [], width: 1, steps: found.steps, values,
  }));
}

/** What the percentiles and the channels of a distribution leave out, in words; nothing if they leave out nothing. */
function leftOut(run, name, isPerChannel) {
  const found = run.distributions[name];
  if (!found) return [];
  const shown = data.steps[isPerChannel ? found.channelSteps : found.steps].length;
  if (shown >= found.of) return [];
  const what = isPerChannel ? "Channels" : "Percentiles";
  return [`${what} at ${shown} of ${found.of} steps, because the page would become too large.`];
}
