// The filter: terms `key op value` joined by `and`, as in `runs --where`, or any other text, which is searched for.

const TERM = /^([A-Za-z_][\w.]*)\s*(==|!=|<=|>=|=|<|>)\s*(.*)$/;

/** A function that tells whether a run matches. Throws an Error with what is wrong. */
function parsedFilter(text) {
  const words = text.trim();
  if (!words) return () => true;
  if (!/[=<>]/.test(words)) {
    const wanted = words.toLowerCase().split(/\s+/);
    return (run) => wanted.every((word) => textOf(run).includes(word));
  }
  const tests = words.split(/\s+and(?:\s+|$)/i).map(parsedTerm);
  return (run) => tests.every((test) => test(run));
}

function parsedTerm(term) {
  const match = TERM.exec(term.trim());
  if (!match || !match[3]) throw new Error(`${term.trim() || "after and"}: write key=value, key>value, …, joined by "and"`);
  const [, key, operator, written] = match;
  const valuesOf = valuesFor(key);
  const value = written.replace(/^(["'])(.*)\1$/, "$2");
  if (operator === "!=") return (run) => !valuesOf(run).some((one) => isEqual(one, value));
  return (run) => valuesOf(run).some((one) => compared(one, operator, value));
}

/** A function that gives the values of a key of a run: none if the run has none, several for tags. */
function valuesFor(key) {
  const setting = data.keys.find((one) => [one.key, one.short, one.key.split(".").at(-1)].includes(key));
  if (setting) return (run) => [run.settings[setting.key]];
  if (key === "tags") return (run) => run.tags;
  const texts = {run: "uuid", name: "name", status: "status", sweep: "sweep", note: "note", time: "time"};
  if (Object.hasOwn(texts, key)) return (run) => [run[texts[key]]].filter((value) => value !== null && value !== "");
  if (data.runs.some((run) => Object.hasOwn(run.results, key))) {
    return (run) => [run.results[key]].filter((value) => value !== undefined && value !== null);
  }
  throw new Error(`no setting or metric is called ${key}`);
}

function compared(one, operator, other) {
  if (operator === "=" || operator === "==") return isEqual(one, other);
  const [left, right] = [numberOf(one), numberOf(other)];
  if (operator === "<") return left < right;
  if (operator === ">") return left > right;
  return operator === "<=" ? left <= right : left >= right;
}

function isEqual(one, other) {
  return String(one) === String(other) || numberOf(one) === numberOf(other);
}

/** A number, or NaN, which nothing equals, exceeds or falls below. */
function numberOf(value) {
  return typeof value === "number" ? value : /\d/.test(value) ? Number(value) : NaN;
}

function textOf(run) {
  const settings = data.keys.map(({short, key}) => `${short}=${run.settings[key]}`);
  return [run.uuid, run.name, run.status, run.sweep, run.note, ...run.tags, ...settings].join(" ").toLowerCase();
}
