// A chart: lines with bands in uPlot, values on hover, zoom shared along x, axes that say when they are cut.

const PLOT_HEIGHT = 260;
const MOST_IN_TOOLTIP = 12;
const DASHES = [[], [8, 4], [2, 3], [10, 4, 2, 4]];
const COLOURS = 7;
const FEWEST_TICKS = 4;

/** So many pixels a finger moves to the side before it chooses a part of a chart. */
const DRAGGED = 8;

/** The share of a line's points at its start that a fitted axis need not show. */
const START = 0.1;

function colourOf(number) {
  return styleOf(`--line-${number % COLOURS}`);
}

function dashOf(number) {
  return DASHES[Math.floor(number / COLOURS) % DASHES.length];
}

function styleOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A colour with this opacity; the colours are written #rrggbb. */
function faded(colour, opacity) {
  return colour + Math.round(255 * opacity).toString(16).padStart(2, "0");
}

/** An empty panel: a heading with the chart's own switches, the place of the chart, and what is to be said about it. */
function makePanel(id, title) {
  const panel = {
    id,
    title,
    switches: element("span", {class: "switches"}),
    plot: element("div", {class: "plot", tabindex: "0", "data-key": `plot ${id}`}),
    notes: element("p", {class: "notes"}),
    chart: null,
  };
  panel.root = element("section", {class: "panel", "aria-label": title},
    element("h3", {}, title, panel.switches), panel.plot, panel.notes);
  panel.plot.addEventListener("keydown", (event) => moved(panel, event));
  return panel;
}

/**
 * Draw lines into a panel, in place of what is there.
 *
 * A line is {label, colour, dash, width, steps, values}, and may have {low, high}, {faint}: not in the tooltip,
 * {number}: of the group that it is of. `view` has rangeX, zoomX, zoomY, logX, logY, isFull, x (the label) and zoomed, which
 * is called with the ranges that were chosen. `format` writes a value.
 */
function drawChart(panel, lines, view, format) {
  panel.chart?.destroy();
  panel.plot.replaceChildren();
  panel.lines = lines;
  panel.view = view;
  panel.format = format;
  panel.range = rangeOf(panel);
  if (!lines.length) {
    panel.chart = null;
    panel.plot.append(element("p", {class: "empty"}, "nothing to draw"));
    return;
  }
  panel.tooltip = element("div", {class: "tooltip", hidden: true});
  panel.chart = new uPlot(optionsFor(panel), alignedData(lines), panel.plot);
  panel.chart.over.append(panel.tooltip);
  zoomByTouch(panel.chart.over);
}

/** A finger that moves to the side chooses a part, as the mouse does; one that moves up or down scrolls the page. */
function zoomByTouch(over) {
  let start = null;
  let isDragging = false;
  const send = (type, {clientX, clientY}) => // uPlot ignores events without a movement
    over.dispatchEvent(new MouseEvent(type, {clientX, clientY, movementX: 1, bubbles: true, view: window}));
  over.addEventListener("pointerdown", (event) => {
    start = event.pointerType === "touch" && event.isPrimary ? event : null;
    isDragging = false;
  });
  over.addEventListener("pointermove", (event) => {
    if (!start || !event.isPrimary) return;
    const [right, down] = [event.clientX - start.clientX, event.clientY - start.clientY];
    if (!isDragging && Math.abs(right) > Math.max(DRAGGED, Math.abs(down))) {
      isDragging = true;
      send("mousemove", start);
      send("mousedown", start);
    }
    if (isDragging) send("mousemove", event);
  });
  over.addEventListener("pointerup", (event) => {
    if (isDragging && event.isPrimary) send("mouseup", event);
    start = null;
  });
}

function alignedData(lines) {
  return uPlot.join(lines.map(({steps, values, low, high}) => [steps, values, ...(low ? [high, low] : [])]));
}

function optionsFor(panel) {
  const {lines, view, format} = panel;
  const [ink, grid] = [styleOf("--ink"), styleOf("--grid")];
  const [series, bands] = [[{}], []];
  panel.seriesOf = [];
  for (const line of lines) {
    panel.seriesOf.push(series.length);
    series.push({
      label: line.label, stroke: line.colour, width: line.width ?? 1.75, dash: line.dash, paths: uPlot.paths.linear(),
      points: {show: line.steps.length <= 30 && lines.length <= 30 && !line.faint, size: 4, fill: line.colour, width: 1},
    });
    if (line.low) {
      bands.push({series: [series.length, series.length + 1], fill: faded(line.colour, 0.18)});
      const edge = {stroke: "transparent", width: 0, points: {show: false}};
      series.push({...edge}, {...edge});
    }
  }
  const axis = {stroke: ink, font: "12px system-ui, sans-serif", grid: {stroke: grid, width: 1}, ticks: {stroke: grid, width: 1}};
  const logarithmic = (isLog) => (isLog ? {splits: (_, number, low, high) => logSplits(low, high), filter: (_, splits) => splits} : {});
  return {
    width: Math.max(200, panel.plot.clientWidth),
    height: PLOT_HEIGHT,
    series,
    bands,
    legend: {show: false},
    scales: {
      x: {time: false, distr: view.logX ? 3 : 1, range: () => view.zoomX ?? view.rangeX},
      y: {distr: view.logY ? 3 : 1, range: () => view.zoomY ?? panel.range},
    },
    axes: [
      {...axis, ...logarithmic(view.logX), values: (_, splits) => tickTexts(splits, stepText, view.logX),
       label: view.x, labelSize: 18, labelFont: axis.font, size: 34},
      {...axis, ...logarithmic(view.logY), values: (_, splits) => tickTexts(splits, format, view.logY), size: 62},
    ],
    cursor: {
      drag: {x: true, y: true, uni: 30, setScale: false},
      sync: {key: "comparison", scales: ["x", null], filters: {pub: (type) => type === "mousemove" || type === "mouseleave"}},
      points: {size: 6},
      bind: {dblclick: () => () => view.zoomed(null, null)},
    },
    hooks: {draw: [(chart) => drawSingleIntervals(panel, chart)], setCursor: [() => showTooltip(panel)], setSelect: [(chart) => zoomTo(panel, chart)]},
  };
}

/** The interval of a mean at one step only, which has no width as a band: a bar. */
function drawSingleIntervals({lines, seriesOf}, chart) {
  const {ctx, bbox} = chart;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  lines.forEach(({low, high, colour}, number) => {
    const known = (low ?? []).flatMap((value, index) => (value === null ? [] : [index]));
    if (known.length !== 1) return;
    const [index] = known;
    const x = chart.valToPos(lines[number].steps[index], "x", true);
    const {min, max} = chart.scales.y;
    const [top, bottom] = [Math.min(high[index], max), Math.max(low[index], min)].map((end) => chart.valToPos(end, "y", true));
    ctx.strokeStyle = colour;
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.strokeRect(x, top, 0, bottom - top);
  });
  ctx.restore();
}

/** Every number of one digit, times a power of ten, in a range; in a short range, of two or three digits. */
function logSplits(low, high) {
  for (const parts of [1, 2, 5, 10, 20, 50, 100]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (let part = parts; part < 10 * parts; part += 1) found.push(Number((part / parts * 10 ** power).toPrecision(4)));
    }
    const shown = found.filter((value) => value >= low && value <= high);
    if (shown.length >= FEWEST_TICKS) return shown;
  }
  return [low, high];
}

/** Tick labels with just as many digits as are needed; on a logarithmic axis, only of some ticks. */
function tickTexts(splits, format, isLog) {
  const mantissa = (value) => Number(value.toExponential().split("e")[0]);
  const chosen = [[1], [1, 2, 5]].map((digits) => new Set(splits.filter((value) => digits.includes(mantissa(value)))))
    .find(({size}) => size >= 2) ?? new Set(splits);
  const shown = isLog ? splits.filter((value) => chosen.has(value)) : splits;
  const isEnough = (digits) => {
    const texts = shown.map((value) => format(value, digits));
    const [first, second] = texts.map(parseFloat);
    const isEven = texts.every((text, index) => Math.abs(parseFloat(text) - first - index * (second - first)) < 1e-9);
    return new Set(texts).size === texts.length && (isLog || isEven);
  };
  const digits = [0, 1, 2, 3].find(isEnough) ?? 4;
  return splits.map((value) => (isLog && !chosen.has(value) ? "" : format(value, digits)));
}

/**
 * The range of the y axis: what the lines have in the shown part of x, without their start unless x is zoomed, and their
 * bands as far as they at most treble it, or on a logarithmic axis add a half. A full axis, and a logarithmic one, has
 * the start too. Sets `isCut` if something is outside.
 */
function rangeOf(panel) {
  panel.isCut = false;
  const {lines, view} = panel;
  const [from, to] = view.zoomX ?? [-Infinity, Infinity];
  const scaled = view.logY ? Math.log10 : (value) => value;
  const [all, fitted, line] = [makeRange(), makeRange(), makeRange()];
  for (const {steps, values, low, high} of lines) {
    const start = view.isFull || view.logY || view.zoomX ? 0 : Math.floor(START * steps.length);
    steps.forEach((step, index) => {
      if (step < from || step > to) return;
      for (const each of [values, low, high]) {
        const value = each?.[index] ?? null;
        if (value === null || (view.logY && value <= 0)) continue;
        const ranges = [all, ...(index < start ? [] : [fitted]), ...(index < start || each !== values ? [] : [line])];
        for (const range of ranges) range.add(scaled(value));
      }
    });
  }
  if (line.high < line.low) return view.logY ? [0.1, 1] : [0, 1];
  // Near zero, the logarithm of an interval's end is far away, and would leave little room for the lines.
  const room = line.high === line.low || view.isFull ? Infinity : (line.high - line.low) * (view.logY ? 0.25 : 1);
  const low = Math.max(fitted.low, line.low - room);
  const high = Math.min(fitted.high, line.high + room);
  const margin = (high - low) * 0.05 || Math.abs(high) * 0.05 || 0.05;
  panel.isCut = low > all.low || high < all.high;
  return [low - margin, high + margin].map((value) => (view.logY ? 10 ** value : value));
}

function makeRange() {
  return {low: Infinity, high: -Infinity, add(value) {
    this.low = Math.min(this.low, value);
    this.high = Math.max(this.high, value);
  }};
}

/** The part that was chosen with the mouse: of x, of y, or of both. */
function zoomTo(panel, chart) {
  const {left, top, width, height} = chart.select;
  if (width < 4 && height < 4) return;
  const isAll = (size, whole) => size < 4 || size >= whole - 1;
  const x = isAll(width, chart.over.clientWidth) ? undefined
    : [chart.posToVal(left, "x"), chart.posToVal(left + width, "x")];
  const y = isAll(height, chart.over.clientHeight) ? undefined
    : [chart.posToVal(top + height, "y"), chart.posToVal(top, "y")];
  queueMicrotask(() => panel.view.zoomed(x, y)); // when uPlot is done with the event: the chart is made again
}

/** What the arrow keys, + and -, and Escape do in a chart. */
function moved(panel, event) {
  const {chart, view} = panel;
  if (!chart) return;
  const [first, last] = [chart.scales.x.min, chart.scales.x.max];
  const at = chart.cursor.idx ?? chart.valToIdx((first + last) / 2);
  const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: chart.data[0].length - 1}[event.key];
  if (to !== undefined) {
    const step = chart.data[0][Math.min(Math.max(to, 0), chart.data[0].length - 1)];
    const value = chart.data[panel.seriesOf[0]][chart.valToIdx(step)] ?? chart.scales.y.min;
    chart.setCursor({left: chart.valToPos(step, "x"), top: Math.max(0, chart.valToPos(value, "y"))});
  } else if (event.key === "+" || event.key === "-") {
    const [centre, half] = [chart.data[0][at], (last - first) * (event.key === "+" ? 0.25 : 1)];
    view.zoomed([Math.max(chart.data[0][0], centre - half), Math.min(chart.data[0].at(-1), centre + half)], undefined);
  } else if (event.key === "Escape") {
    view.zoomed(null, null);
  } else {
    return;
  }
  event.preventDefault();
}

/** The values of all lines at the cursor, the highest first; of many lines, those that are nearest to it. */
function showTooltip(panel) {
  const {chart, tooltip, lines, view, format} = panel;
  if (!chart || chart.cursor.idx === null || chart.cursor.idx === undefined || chart.cursor.left < 0) {
    if (tooltip) tooltip.hidden = true;
    return;
  }
  const found = lines.flatMap((line, number) => {
    const index = chart.cursor.idxs[panel.seriesOf[number]];
    const value = index === null || index === undefined ? null : chart.data[panel.seriesOf[number]][index];
    if (line.faint || value === null || value === undefined) return [];
    const interval = line.low ? [chart.data[panel.seriesOf[number] + 1][index], chart.data[panel.seriesOf[number] + 2][index]] : [];
    return [{line, value, interval, step: chart.data[0][index]}];
  });
  const height = chart.posToVal(Math.max(0, chart.cursor.top), "y");
  const nearest = [...found].sort((one, other) => Math.abs(one.value - height) - Math.abs(other.value - height));
  const shown = nearest.slice(0, MOST_IN_TOOLTIP).sort((one, other) => other.value - one.value);
  const left = found.length - shown.length;
  tooltip.replaceChildren(
    element("div", {class: "step"}, `${view.x}: ${Number(chart.data[0][chart.cursor.idx].toPrecision(8)).toLocaleString("en")}`),
    ...shown.map(({line, value, interval}) => element("div", {class: "value"},
      sample(line), element("span", {class: "name"}, line.label), element("b", {}, format(value)),
      interval.length && interval[0] !== null && interval[0] !== undefined
        ? ` ${format(interval[1])} to ${format(interval[0])}` : null)),
    ...(left ? [element("div", {class: "step"}, `and ${left} more`)] : []));
  tooltip.hidden = !shown.length;
  const isLeft = chart.cursor.left > chart.over.clientWidth / 2;
  tooltip.classList.toggle("left", isLeft);
}

/** A short piece of a line, as it is in the charts. */
function sample({colour, dash}) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({width: 28, height: 10, "aria-hidden": "true"})) svg.setAttribute(name, value);
  const drawn = {x1: 1, x2: 27, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash.join(" ")};
  for (const [name, value] of Object.entries(drawn)) line.setAttribute(name, value);
  svg.append(line);
  return svg;
}
