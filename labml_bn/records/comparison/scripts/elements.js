// Making elements, and numbers as text. What a run says of itself is only ever the text of an element.

/** An element. Entries of `properties` are attributes, `onclick` and the like functions; children are text or elements. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

/** Fill a selection list, and choose a value; the first one if there is no such value. Returns what is chosen. */
function fill(select, options, value) {
  const parts = options.map(([label, values]) => {
    const made = values.map(([one, text]) => element("option", {value: one}, text));
    return label === null ? made : element("optgroup", {label}, ...made);
  });
  select.replaceChildren(...parts.flat());
  const all = options.flatMap(([, values]) => values.map(([one]) => one));
  select.value = all.includes(value) ? value : all[0] ?? "";
  return select.value;
}

/** A value of a metric: an accuracy in percent, others with four significant digits. */
function valueText(name, value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (isAccuracy(name)) return `${(100 * value).toFixed(digits)} %`;
  return numberText(value);
}

function isAccuracy(name) {
  return /(^|\.)accuracy\./.test(name);
}

function numberText(value) {
  const size = Math.abs(value);
  return value !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

/** `mean ± half of the interval`, or the mean alone. */
function estimateText(name, {n, mean, low, high}) {
  if (n === 0) return "–";
  if (low === null) return valueText(name, mean);
  const half = (high - low) / 2;
  if (isAccuracy(name)) return `${(100 * mean).toFixed(2)} ± ${(100 * half).toFixed(2)} %`;
  const digits = 1 - Math.floor(Math.log10(half)); // two significant ones of the half
  if (!(digits >= 0 && digits <= 6)) return `${numberText(mean)} ± ${numberText(half)}`;
  return `${mean.toFixed(digits)} ± ${half.toFixed(digits)}`;
}

/** A number of images or epochs in few characters: 960k. */
function stepText(step) {
  if (step >= 1e6) return `${Number((step / 1e6).toPrecision(4))}M`;
  return step >= 1000 ? `${Number((step / 1000).toPrecision(4))}k` : String(Number(step.toPrecision(4)));
}

function durationText(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds) % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
