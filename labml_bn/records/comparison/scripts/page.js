// The page as a whole: what was chosen, and drawing it. Whatever changes what is chosen calls `draw`.

/** So many groups are drawn at first. */
const MOST_GROUPS = 8;
const DEFAULT_CHARTS = 4;

/** The distributions of so many groups are drawn as bands; those of more would hide each other. */
const MOST_BANDS = 3;

const state = {
  by: BY_SETTINGS,
  filter: "",
  hidden: null, // the ids of groups that are not drawn; null before that was decided
  first: new Set(), // the ids of groups that are first in the legend: of many, those that were drawn at first
  expanded: new Set(), // the ids of groups whose runs are drawn
  opened: new Set(), // the ids of groups whose runs are in the table
  charts: null, // the names of the metrics that are drawn
  x: "images",
  logX: false,
  smoothing: 0,
  zoomX: null,
  ofChart: new Map(), // by its id: {logY, isFull, zoomY}
  sort: {column: null, isDescending: false},
  columns: new Map(), // by id: whether the column is shown
  distribution: {who: ALL_GROUPS, layer: "", statistic: "", isPerChannel: false},
};

/** The id of the chart of distributions; those of the others are the names of metrics. */
const DISTRIBUTION = "distribution";

const panels = new Map();
let groups = [];

/** Draw all of the page again. What has the focus keeps it. */
function draw() {
  const focused = document.activeElement?.dataset?.key;
  groups = chosenGroups();
  drawControls();
  drawLegend();
  drawCharts();
  drawDistributions();
  drawTable();
  if (focused && document.activeElement?.dataset?.key !== focused) {
    [...document.querySelectorAll("[data-key]")].find(({dataset}) => dataset.key === focused)?.focus();
  }
}

function change(changes) {
  Object.assign(state, changes);
  draw();
}

/** The groups of the runs that match the filter. Of many groups, only the best ones are drawn at first. */
function chosenGroups() {
  let matches = () => true;
  byId("filter-error").textContent = "";
  try {
    matches = parsedFilter(state.filter);
  } catch (error) {
    byId("filter-error").textContent = error.message;
  }
  const found = grouped(data.runs.filter(matches), state.by);
  if (state.hidden === null) {
    const best = sorted(found, (group) => [resultsOfGroup(group, "accuracy.test").final.mean], true);
    const ids = found.length > MOST_GROUPS ? best.map(({id}) => id) : [];
    state.first = new Set(ids.slice(0, MOST_GROUPS));
    state.hidden = new Set(ids.slice(MOST_GROUPS));
  }
  return found;
}

function isShown(group) {
  return !state.hidden.has(group.id);
}

function drawControls() {
  fill(byId("by"), [[null, groupings().map((one) => [one, one])]], state.by);
  fill(byId("x"), [[null, [["images", "training images seen"], ["epochs", "epochs"]]]], state.x);
  byId("smoothing-value").textContent = state.smoothing ? state.smoothing.toFixed(2) : "off";
  byId("reset").hidden = state.zoomX === null && ![...state.ofChart.values()].some(({zoomY}) => zoomY);
  const runs = groups.flatMap((group) => group.runs).length;
  const running = data.runs.filter(({status}) => status === "running").length;
  const words = [`${runs} of ${data.runs.length} runs in ${groups.length} ${groups.length === 1 ? "group" : "groups"}`,
    ...(running ? [`${running} running`] : []), `as of ${new Date(data.made).toLocaleString("en-GB")}`];
  byId("summary").textContent = words.join(" · ");
  const names = metricNames();
  state.charts ??= new Set(names.slice(0, DEFAULT_CHARTS));
  byId("metrics").replaceChildren(...names.map((name) => checkbox(`chart ${name}`, name, state.charts.has(name), (on) => {
    state.charts[on ? "add" : "delete"](name);
    draw();
  })));
}

function checkbox(key, text, isChecked, changed) {
  const box = element("input", {type: "checkbox", "data-key": key, onchange: (event) => changed(event.target.checked)});
  box.checked = isChecked;
  return element("label", {}, box, " ", text);
}

function drawLegend() {
  const inOrder = [...groups].sort((one, other) => state.first.has(other.id) - state.first.has(one.id));
  const chips = inOrder.map((group) => {
    const line = {colour: colourOf(group.number), dash: dashOf(group.number)};
    // The second click of a double click is on a new element, so that none of them gets the event of that name.
    const toggle = (event) => (event.altKey || event.detail === 2 ? isolate(group) : showGroup(group, !isShown(group)));
    const isExpanded = state.expanded.has(group.id);
    return element("span", {class: isShown(group) ? "chip" : "chip off"},
      element("button", {type: "button", class: "toggle", "aria-pressed": String(isShown(group)), title: "hide or show",
        "data-key": `toggle ${group.id}`, onclick: toggle},
        sample(line), element("span", {class: "name"}, group.label),
        state.by === BY_RUN ? null : element("span", {class: "count"}, `n = ${countText(group)}`)),
      element("button", {type: "button", title: "show this group only", "data-key": `only ${group.id}`,
        onclick: () => isolate(group)}, "only"),
      state.by === BY_RUN ? null : element("button", {type: "button", title: "draw its runs", "aria-pressed": String(isExpanded),
        "data-key": `runs ${group.id}`, onclick: () => {
          state.expanded[isExpanded ? "delete" : "add"](group.id);
          if (!isExpanded) state.hidden.delete(group.id);
          draw();
        }}, "runs"));
  });
  const hidden = groups.filter((group) => !isShown(group)).length;
  const all = element("button", {type: "button", "data-key": "show all", disabled: !hidden, onclick: () => change({hidden: new Set()})},
    `show all ${groups.length}`);
  const said = groups.length > MOST_GROUPS
    ? [element("span", {class: "count"}, `${groups.length - hidden} of ${groups.length} groups are drawn; at first those with the highest final test accuracy.`)] : [];
  byId("legend").replaceChildren(...said, ...(groups.length > 1 ? [all] : []), ...chips);
}

function showGroup(group, on) {
  state.hidden[on ? "delete" : "add"](group.id);
  draw();
}

/** Show one group only; or all, if it is the only one already. */
function isolate(group) {
  const others = groups.filter(({id}) => id !== group.id).map(({id}) => id);
  const isOnly = isShown(group) && others.every((id) => state.hidden.has(id));
  change({hidden: new Set(isOnly ? [] : others)});
}

function viewOf(id, logY, isFull) {
  if (!state.ofChart.has(id)) state.ofChart.set(id, {logY, isFull, zoomY: null});
  const own = state.ofChart.get(id);
  return {
    ...own, zoomX: state.zoomX, rangeX: rangeOfX(), logX: state.logX, x: state.x === "images" ? "training images seen" : "epochs",
    zoomed: (x, y) => {
      if (x !== undefined) state.zoomX = x;
      if (y !== undefined) own.zoomY = y;
      if (x === null) for (const each of state.ofChart.values()) each.zoomY = null;
      draw();
    },
  };
}

/** The whole of the x axis, the same for all charts: up to the last step of any run, and from 0 if it is linear. */
function rangeOfX() {
  const ends = data.runs.flatMap((run) => Object.keys(run.metrics).map((name) => {
    const {steps} = curveOf(run, name);
    return placed([run], [steps[0], steps.at(-1)]);
  }));
  const low = state.logX ? Math.min(...ends.map(([first]) => first).filter((first) => first > 0)) : 0;
  const high = Math.max(...ends.map(([, last]) => last));
  return low < high && Number.isFinite(high) ? [low, high] : [low || 1, 10 * (low || 1)];
}

/** Steps as they are on the x axis. */
function placed(runs, steps) {
  if (state.x === "images") return steps;
  return steps.map((step) => step / runs[0].imagesPerEpoch);
}

/** The lines of a metric: of each drawn group its mean, before smoothing faintly, and its runs if they are wanted. */
function linesOf(name, notes) {
  const lines = [];
  for (const group of groups.filter(isShown)) {
    const style = {colour: colourOf(group.number), dash: dashOf(group.number), number: group.number};
    const found = curveOfGroup(group, name, state.smoothing);
    const runs = state.expanded.has(group.id) || !group.counted.length ? group.runs : [];
    for (const run of runs.filter((one) => curveOf(one, name))) {
      const {steps, values} = curveOf(run, name);
      lines.push({...style, label: `${labelOfRun(run)}${run.status === "completed" ? "" : ` (${run.status})`}`, width: 1, isRun: true,
        colour: faded(style.colour, 0.65), steps: placed([run], steps), values: smoothed(values, state.smoothing)});
    }
    if (!found) continue;
    const steps = placed(group.counted, found.steps);
    if (state.smoothing) {
      const raw = curveOfGroup(group, name, 0);
      lines.push({...style, label: group.label, colour: faded(style.colour, 0.3), width: 1, faint: true, steps, values: raw.mean});
    }
    const interval = found.n > 1 ? {low: found.low, high: found.high} : {};
    lines.push({...style, label: group.label, width: 2, steps, values: found.mean, ...interval});
    if (found.isCut) {
      notes.push(`${group.label}: the mean ends at ${found.last.toLocaleString("en")} images, which all ${found.n} runs have reached.`);
    }
  }
  return lines;
}

function drawCharts() {
  const names = metricNames().filter((name) => state.charts.has(name));
  const wanted = names.map((name) => {
    const view = viewOf(name, name.startsWith("loss."), false);
    const panel = panels.get(name) ?? makePanel(name, titleOf(name));
    panels.set(name, panel);
    return {name, view, panel};
  });
  showOnly(byId("charts"), wanted.map(({panel}) => panel.root));
  for (const {name, view, panel} of wanted) {
    const notes = [];
    const count = data.averaged[name];
    if (count) notes.push(`Each point is the mean of ${count} ${name === "loss.train" ? "batches" : "values"}.`);
    drawChart(panel, linesOf(name, notes), view, (value, digits) => valueText(name, value, digits));
    finish(panel, notes);
  }
  byId("reading").textContent = "Lines are means over the runs of a group, bands their 95 % intervals (Student's t); a group "
    + "with n = 1 has no interval. Diverged runs are left out of means. Drag to zoom (on a touch screen, to the side), double-click or Escape to reset; "
    + "click a group to hide it, double-click to show it only."
    + aboutTestImages()
    + (state.smoothing ? " Each run is smoothed, then averaged; the means before that are drawn faintly." : "");
}

/** A sentence that the drawn groups are tested on different images, if they are. */
function aboutTestImages() {
  const runs = groups.filter(isShown).flatMap((group) => group.runs);
  const keys = differing(runs).map(({key}) => key).filter((key) => data.testImages.includes(key));
  return keys.length ? ` Accuracies and losses on different test images cannot be compared (they differ in ${keys.join(" and ")}).` : "";
}

function titleOf(name) {
  const [kind, images] = name.split(".");
  const words = {train: "training", valid: "validation", held_out: "held-out images", test: "test"};
  return ["loss", "accuracy"].includes(kind) && images in words ? `${words[images]} ${kind}` : name;
}

/** Put elements into a place, unless they are what is in it already: elements that stay keep their size. */
function showOnly(place, wanted) {
  if (wanted.length !== place.children.length || wanted.some((one, index) => place.children[index] !== one)) {
    place.replaceChildren(...wanted);
  }
}

/** A panel's switches and notes, which depend on what was drawn. */
function finish(panel, notes) {
  const own = state.ofChart.get(panel.id);
  const toggle = (name, text, title) => element("button", {type: "button", "aria-pressed": String(own[name]), title,
    "data-key": `${name} ${panel.id}`, onclick: () => {
      own[name] = !own[name];
      own.zoomY = null;
      draw();
    }}, text);
  panel.switches.replaceChildren(toggle("logY", "log y", "logarithmic y axis"),
    toggle("isFull", "full range", "show every value, also those at the start"));
  panel.plot.setAttribute("aria-label", `${panel.title}: ${panel.lines.length} lines; arrow keys read values, plus and minus zoom`);
  if (panel.isCut && !own.zoomY) notes.unshift("The y axis does not show all values (full range does).");
  panel.notes.textContent = notes.join(" ");
}

function drawDistributions() {
  const names = distributionNames();
  byId("distributions").hidden = !names.length;
  if (!names.length) return;
  const chosen = state.distribution;
  const drawn = groups.filter(isShown);
  chosen.who = fill(byId("who"), [
    [null, [[ALL_GROUPS, "the groups drawn above"]]],
    ["groups", groups.map((group) => [`group ${group.id}`, group.label])],
    ["runs", groups.flatMap((group) => group.runs).map((run) => [`run ${run.key}`, labelOfRun(run)])],
  ], chosen.who);
  const layers = [...new Set(names.map((name) => partsOf(name).layer))];
  chosen.layer = fill(byId("layer"), [[null, layers.map((one) => [one, one || "–"])]], chosen.layer);
  const ofLayer = names.filter((name) => partsOf(name).layer === chosen.layer);
  chosen.statistic = fill(byId("statistic"), [[null, ofLayer.map((name) => [name, partsOf(name).statistic])]],
    ofLayer.includes(chosen.statistic) ? chosen.statistic : sameStatistic(ofLayer, chosen.statistic));

  const name = chosen.statistic;
  const [kind, id] = [chosen.who.split(" ", 1)[0], chosen.who.slice(chosen.who.indexOf(" ") + 1)];
  const target = kind === "group" ? groups.find((group) => group.id === id)
    : groups.find((group) => group.runs.some(({key}) => key === id));
  const run = kind === "run" ? target.runs.find(({key}) => key === id)
    : kind === "group" && target.counted.length === 1 ? target.counted[0] : null;
  const box = byId("per-channel");
  box.disabled = !run;
  box.checked = Boolean(run) && chosen.isPerChannel;
  box.parentElement.title = run ? "" : "choose a run";

  const panel = panels.get(DISTRIBUTION) ?? makePanel(DISTRIBUTION, "");
  panels.set(DISTRIBUTION, panel);
  showOnly(byId("distribution"), [panel.root]);
  const view = viewOf(DISTRIBUTION, false, true);
  const styled = (group, label) => ({label, colour: colourOf(group.number), dash: dashOf(group.number)});
  const [low, , high] = data.percentiles;
  const notes = [];
  let lines;
  let hasBands = true;
  if (box.checked) {
    lines = channelLines(run, name);
    notes.push(`Each line is one of ${lines.length} channels.`);
  } else if (kind === ALL_GROUPS) {
    lines = drawn.flatMap((group) => distributionLines(countedOrAll(group), name, styled(group, group.label), false));
    hasBands = lines.length <= MOST_BANDS;
    if (!hasBands) lines = lines.map(({low: _, high: __, ...line}) => line);
  } else {
    const runs = run ? [run] : countedOrAll(target);
    lines = distributionLines(runs, name, styled(target, run ? run.id : target.label), true);
  }
  if (!box.checked) {
    notes.push(`Median over channels${hasBands ? `, with bands from the ${low}th to the ${high}th percentile` : ""}`
      + `${hasBands ? "" : `; with more than ${MOST_BANDS} groups, without bands`}${kind === ALL_GROUPS ? "" : "; dotted: minimum and maximum"}.`
      + `${run ? "" : " Of several runs, the means of their percentiles."}`);
  }
  const described = run ?? (kind === ALL_GROUPS ? drawn : [target]).flatMap((group) => group.runs)[0];
  if (described) notes.push(...leftOut(described, name, box.checked));
  const first = described ? [described] : [];
  for (const line of lines) line.steps = placed(first, line.steps);
  panel.root.querySelector("h3").firstChild.textContent = `${chosen.layer}: ${partsOf(name).statistic}`;
  panel.title = `${chosen.layer}: ${partsOf(name).statistic}`;
  drawChart(panel, lines, view, (value) => numberText(value));
  finish(panel, notes);
}

function countedOrAll(group) {
  return group.counted.length ? group.counted : group.runs;
}

/** The same statistic as that of another layer, if this one has it. */
function sameStatistic(names, before) {
  return names.find((name) => before && partsOf(name).statistic === partsOf(before).statistic) ?? names[0];
}

function drawTable() {
  const columns = allColumns(state.by);
  const shown = columns.filter(({id, isDefault}) => state.columns.get(id) ?? isDefault);
  byId("columns").replaceChildren(...columns.map(({id, label, isDefault}) =>
    checkbox(`column ${id}`, label, state.columns.get(id) ?? isDefault, (on) => {
      state.columns.set(id, on);
      draw();
    })));
  const by = columns.find(({id}) => id === state.sort.column);
  const order = (things, valueOf) => (by ? sorted(things, valueOf, state.sort.isDescending) : things);
  const head = element("tr", {}, headCell({id: null, label: state.by === BY_RUN ? "run" : "group", title: "in the order given"}),
    shown.map(headCell));
  const rows = order(groups, (group) => by.ofGroup(group)).flatMap((group) => {
    const isOpen = state.opened.has(group.id);
    const runs = isOpen ? order(group.runs, (run) => by.ofRun(run)) : [];
    return [
      element("tr", {class: isShown(group) ? "group" : "group off"},
        element("td", {}, state.by === BY_RUN ? null : element("button", {type: "button", class: "expand",
          "aria-expanded": String(isOpen), "aria-label": `runs of ${group.label}`, "data-key": `open ${group.id}`,
          onclick: () => {
            state.opened[isOpen ? "delete" : "add"](group.id);
            draw();
          }}, isOpen ? "−" : "+"),
        element("span", {class: "name"}, sample({colour: colourOf(group.number), dash: dashOf(group.number)}), group.label)),
        shown.map((column) => cell(column, state.by === BY_RUN && column.id === "n"
          ? column.ofRun(group.runs[0]) : column.ofGroup(group)))),
      ...runs.map((run) => element("tr", {class: "run"}, element("td", {title: run.uuid}, labelOfRun(run)),
        shown.map((column) => cell(column, column.ofRun(run))))),
    ];
  });
  byId("table").replaceChildren(element("thead", {}, head), element("tbody", {}, rows));
  const isOfAll = state.by === BY_SETTINGS && state.filter.trim() === ""; // the sentences are of these groups
  byId("sentences").replaceChildren(...(isOfAll ? data.sentences : []).map((sentence) => element("li", {}, sentence)));
}

function headCell({id, label, title, isNumber}) {
  const {column, isDescending} = state.sort;
  const isSorted = id !== null && column === id;
  const direction = isSorted ? (isDescending ? "descending" : "ascending") : "none";
  const name = state.by === BY_RUN && id === "n" ? "status" : label;
  return element("th", {scope: "col", "aria-sort": direction, class: isNumber ? "number" : undefined},
    element("button", {type: "button", title, "data-key": `sort ${id}`,
      onclick: () => change({sort: {column: id, isDescending: isSorted && !isDescending}})},
      `${name}${isSorted ? (isDescending ? " ▼" : " ▲") : ""}`));
}

function cell({isNumber}, [, text]) {
  return element("td", {class: isNumber ? "number" : "text", title: isNumber ? undefined : text}, text);
}

byId("by").addEventListener("change", ({target}) => change({by: target.value, hidden: null, expanded: new Set(), opened: new Set()}));
byId("filter").addEventListener("input", ({target}) => change({filter: target.value}));
byId("x").addEventListener("change", ({target}) => change({x: target.value, zoomX: null}));
byId("log-x").addEventListener("change", ({target}) => change({logX: target.checked}));
byId("smoothing").addEventListener("input", ({target}) => change({smoothing: Number(target.value)}));
byId("reset").addEventListener("click", () => panels.values().next().value.view.zoomed(null, null));
byId("who").addEventListener("change", ({target}) => change({distribution: {...state.distribution, who: target.value}}));
byId("layer").addEventListener("change", ({target}) => change({distribution: {...state.distribution, layer: target.value}}));
byId("statistic").addEventListener("change", ({target}) => change({distribution: {...state.distribution, statistic: target.value}}));
byId("per-channel").addEventListener("change", ({target}) =>
  change({distribution: {...state.distribution, isPerChannel: target.checked}}));

load(byId("data").textContent);
byId("data").remove();
draw();
new ResizeObserver(() => {
  for (const {chart, plot} of panels.values()) {
    if (chart && plot.clientWidth && Math.abs(chart.width - plot.clientWidth) > 1) {
      chart.setSize({width: plot.clientWidth, height: PLOT_HEIGHT});
    }
  }
}).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

/** What tests look at, and whoever has opened the browser's console. */
window.comparison = {state, panels, draw, get data() { return data; }, get groups() { return groups; }, resultsOfGroup, curveOfGroup};
