"""The comparison page in a real browser: what it draws is held to the logs and to SciPy, and it loads nothing."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from labml_bn.cli.errors import UserError
from labml_bn.cli.text import duration
from labml_bn.records import notes
from labml_bn.records.comparison import page
from labml_bn.records.comparison.estimates import mean_curve
from labml_bn.records.comparison.measured import read_groups
from labml_bn.records.comparison.rows import sentences
from labml_bn.records.record import read_run, read_runs
from tests.browser import Visit, needs_browser, visiting
from tests.conftest import another, metrics
from tests.records.comparison.conftest import log
from tests.records.comparison.varied_runs import make_sweep, varied

VENDOR = Path(page.__file__).parent / "vendor"

#: The lines of a chart as they are in uPlot: label, and the points that are not null.
LINES = """name => {
  const {chart, lines, seriesOf} = comparison.panels.get(name);
  if (!chart) return [];
  return lines.map((line, number) => {
    const column = (offset) => chart.data[0].map((step, index) => [step, chart.data[seriesOf[number] + offset][index]])
      .filter(([, value]) => value !== undefined && value !== null);
    return {label: line.label, faint: Boolean(line.faint), isRun: Boolean(line.isRun), points: column(0),
      high: line.low ? column(1) : null, low: line.low ? column(2) : null};
  });
}"""

#: The shown range of an axis.
RANGE = "([name, axis]) => {const {min, max} = comparison.panels.get(name).chart.scales[axis]; return [min, max]}"

Points = list[tuple[int, float]]

#: The metrics in a line of a log: [step, values] of each.
Track = dict[str, list[tuple[int, list[float]]]]


@pytest.fixture(scope="module")
def sweep(full_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_sweep(full_run, tmp_path_factory.mktemp("sweep") / "logs")


def save(folders: list[Path], path: Path) -> str:
    runs = read_runs(folders)
    page.save(runs, [run.metrics() for run in runs], path)
    return path.as_uri()


def test_the_library_is_the_one_of_the_package() -> None:
    """The hashes in its README are those of the files."""
    listed = re.findall(r"\| `(\S+)` \| `package/\S*` \| `([0-9a-f]{64})` \|", (VENDOR / "README.md").read_text())
    assert {name for name, _ in listed} == {path.name for path in VENDOR.iterdir()} - {"README.md"}
    for name, sha256 in listed:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == sha256


def test_the_page_is_self_contained(sweep: list[Path], tmp_path: Path) -> None:
    save(sweep[:2], tmp_path / "page.html")
    written = (tmp_path / "page.html").read_text()
    assert re.search("default-src 'none'; script-src 'sha256-[^ ]+' 'sha256-[^ ]+'; style-src 'sha256-[^ ]+';", written)
    assert not re.search(r"\b(src|href)=(?![\"']data:)|@import|url\(", written)
    assert "connect-src" not in written
    assert "{{" not in written
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(UserError, match=r"^cannot write .*: No such file or directory$"):
        save(sweep[:1], tmp_path / "nowhere" / "page.html")


Open = Callable[..., Visit]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open the page of some runs in a browser. At the end it has contacted no host, and reported no error."""
    contexts: list[AbstractContextManager[Visit]] = []
    visits: list[Visit] = []

    def open_page(folders: list[Path], width: int = 1400, **options: Any) -> Visit:
        address = save(folders, tmp_path / f"page{len(contexts)}.html")
        context = visiting(tmp_path / f"browser{len(contexts)}", width, 900, **options)
        visit = context.__enter__()
        contexts.append(context)
        visits.append(visit)
        visit.page.goto(address)
        visit.page.wait_for_function("() => window.comparison")
        return visit

    yield open_page
    for context in contexts:
        context.__exit__(None, None, None)
    for visit in visits:
        assert visit.errors == []
        assert visit.hosts <= {None, ""}


def logged(run: Path, name: str) -> dict[int, float]:
    return {step: values[0] for step, values in metrics(run).get(name, [])}


def expected_mean(runs: list[Path], name: str) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """The common steps of some runs, the mean of a metric at each, and SciPy's 95 % interval of it."""
    series = [logged(run, name) for run in runs]
    steps = sorted(set.intersection(*map(set, series)))
    values = np.array([[one[step] for step in steps] for one in series])
    interval = scipy.stats.t.interval(0.95, len(runs) - 1, values.mean(axis=0), scipy.stats.sem(values, axis=0))
    return steps, values.mean(axis=0), np.array(interval)


def lines(page: Page, name: str) -> dict[str, dict[str, Any]]:
    found = page.evaluate(LINES, name)
    return {line["label"]: line for line in found if not line["faint"]}


def assert_points(points: Points, steps: list[int], values: Any, tolerance: float = 1e-12) -> None:
    assert [step for step, _ in points] == steps
    np.testing.assert_allclose([value for _, value in points], values, rtol=tolerance, atol=1e-15)


def assert_equal(found: list[float | None], expected: Any) -> None:
    """Values of the page, in which null is NaN, equal those of the command."""
    values = np.array([np.nan if value is None else value for value in found])
    np.testing.assert_allclose(values, np.asarray(expected), rtol=1e-9, atol=1e-12)


def change_log(run: Path, change: Callable[[Track], Track]) -> None:
    """Replace the metrics in a run's log."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    written = [json.dumps({**entry, "track": change(entry["track"])}) + "\n" for entry in entries]
    (run / "log.jsonl").write_text("".join(written))


CHARTS = ("accuracy.test", "loss.test", "accuracy.train", "loss.train")


@needs_browser
@pytest.mark.slow
class TestInABrowser:
    """The page, opened and used."""

    def test_means_and_intervals(self, sweep: list[Path], opened: Open) -> None:
        """Of runs that differ only in their seed. Diverged runs are left out, and only the common part is averaged."""
        shown = opened(sweep).page
        groups = {
            "batch_norm lr=0.001": sweep[:3],
            "batch_norm lr=0.01": sweep[3:6],
            "no_norm lr=0.001": sweep[6:9],  # one was interrupted
            "no_norm lr=0.01": sweep[9:11],  # one more has diverged
        }
        for name in CHARTS:
            drawn = lines(shown, name)
            assert drawn.keys() == groups.keys()
            for label, runs in groups.items():
                steps, mean, interval = expected_mean(runs, name)
                assert len(steps) > 1
                assert_points(drawn[label]["points"], steps, mean)
                for part, values in zip(("low", "high"), interval, strict=True):
                    assert_points(drawn[label][part], steps, values, 1e-9)
        counts = shown.locator(".chip .count").all_inner_texts()
        assert counts == ["n = 3", "n = 3", "n = 3", "n = 2, 1 diverged, left out"]
        last = max(logged(sweep[8], "accuracy.test"))
        said = shown.locator("section.panel[aria-label='test accuracy'] .notes").inner_text()
        assert f"no_norm lr=0.001: the mean ends at {last:,} images, which all 3 runs have reached." in said

    def test_groups_and_estimates_are_those_of_the_command(
        self, sweep: list[Path], tmp_path: Path, opened: Open
    ) -> None:
        """The page's scripts compute what `groups.py`, `measured.py` and `estimates.py` do, for unusual runs too."""
        logs = tmp_path / "logs"
        only = {"norm": "torch", "train_batch_size": 128}
        runs = [
            varied(sweep[9], logs, "600beef", settings={"norm": "torch"}, status="diverged"),  # a group without a mean
            *sweep[3:],
            *sweep[:3],
            varied(sweep[0], logs, "610beef", settings={"keep": 5}),  # again, and the newest
            varied(sweep[10], logs, "620beef", settings={}, status="diverged"),
            varied(sweep[0], logs, "630beef", settings={"seed.seed": 4}, part=0.1),  # not tested
            varied(sweep[0], logs, "640beef", settings={**only, "seed.seed": 1}, part=0.1),
            varied(sweep[0], logs, "650beef", settings={**only, "seed.seed": 2}, part=0.2),
            varied(sweep[0], logs, "660beef", settings={"dataset": "FashionMNIST", "epochs": 20}),  # with a name
            varied(sweep[0], logs, "670beef", settings={"held_out": 1000, "seed.seed": 1}),
            varied(sweep[0], logs, "680beef", settings={"held_out": 1000, "seed.seed": 2}),
            varied(sweep[0], logs, "690beef", settings={"held_out": 1000, "seed.seed": 3}),
        ]
        notes.write(runs[-4], {"name": "clothes"})
        last = max(logged(runs[-2], "loss.test"))

        def hold_out(track: Track) -> Track:
            return {name.replace("valid", "held_out"): points for name, points in track.items()}

        def make_impossible(track: Track) -> Track:
            for name, wanted in (("loss.test", last), ("accuracy.test", 1000)):
                for step, values in track.get(name, []):
                    values[:] = [1e300] if step == wanted else values
            return track

        for run in runs[-3:]:
            change_log(run, hold_out)
        change_log(runs[-2], make_impossible)

        shown = opened(runs).page
        groups = read_groups(read_runs(runs))
        found = shown.evaluate("""() => comparison.groups.map((group) => ({
          name: group.label,
          ...Object.fromEntries(["counted", "diverged", "repeated", "untested"].map((part) =>
            [part, group[part].map((run) => run.uuid).sort()])),
          results: Object.fromEntries(["accuracy.test", "loss.test"].flatMap((name) =>
            Object.entries(comparison.resultsOfGroup(group, name)).map(([kind, one]) =>
              [(kind === "best" ? "best." : "") + name, one]))),
          curves: Object.fromEntries(["accuracy.test", "loss.test", "accuracy.train", "loss.train"].map((name) =>
            [name, comparison.curveOfGroup(group, name, 0) ?? null])),
        }))""")
        assert [one["name"] for one in found] == [group.group.name for group in groups]
        for one, group in zip(found, groups, strict=True):
            untested = [run for run in group.group.runs if run not in group.averaged]
            for part, members in (
                ("counted", group.averaged),
                ("diverged", group.group.diverged),
                ("repeated", group.group.older),
                ("untested", untested),
            ):
                assert one[part] == sorted(run.uuid for run in members), (group.group.name, part)
            for name, estimate in one["results"].items():
                expected = group.estimate(name)
                assert estimate["n"] == expected.n, (group.group.name, name)
                assert_equal([estimate[part] for part in ("mean", "low", "high")],
                             [expected.mean, expected.low, expected.high])  # fmt: skip
            for name, curve in one["curves"].items():
                series = [metrics[name] for metrics in group.common if name in metrics]
                assert (curve is None) == (not series), (group.group.name, name)
                if curve is None:
                    continue
                assert curve["steps"] == series[0].steps.tolist(), (group.group.name, name)
                values = mean_curve(np.array([each.values[:, 0] for each in series]))
                for part, wanted in zip(("mean", "low", "high"), values, strict=True):
                    assert_equal(curve[part], wanted)

    def test_what_is_drawn_is_where_its_values_are(self, sweep: list[Path], opened: Open) -> None:
        """The pixels at the values have the line's colour."""
        shown = opened(sweep[:2]).page
        found = shown.evaluate("""() => {
          const {chart, lines} = comparison.panels.get("accuracy.valid") ?? comparison.panels.get("accuracy.test");
          return chart.data[0].flatMap((step, index) => {
            const value = chart.data[1][index];
            if (value === undefined || value < chart.scales.y.min) return [];
            const [x, y] = [chart.valToPos(step, "x", true), chart.valToPos(value, "y", true)].map(Math.round);
            const edge = chart.bbox.left + chart.bbox.width - 2;
            return [[...chart.ctx.getImageData(Math.min(x, edge), y, 1, 1).data]];
          });
        }""")
        assert len(found) >= 2
        colour = shown.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--line-0').trim()")
        for pixel in found:
            wanted = [int(colour[part : part + 2], 16) for part in (1, 3, 5)]
            assert np.abs(np.array(pixel[:3]) - wanted).max() < 60, (pixel, wanted)

    def test_one_run_has_no_interval(self, sweep: list[Path], opened: Open) -> None:
        shown = opened([sweep[0], sweep[6]]).page
        drawn = lines(shown, "loss.test")
        assert drawn.keys() == {"batch_norm", "no_norm"}
        for label, run in (("batch_norm", sweep[0]), ("no_norm", sweep[6])):
            assert drawn[label]["low"] is None
            assert dict(drawn[label]["points"]) == logged(run, "loss.test")
        assert shown.locator(".chip .count").all_inner_texts() == ["n = 1", "n = 1"]

    def test_groups_are_hidden_isolated_and_opened(self, sweep: list[Path], opened: Open) -> None:
        shown = opened(sweep).page
        names = list(lines(shown, "loss.test"))
        toggles = shown.locator(".chip .toggle")
        toggles.nth(1).click()
        assert list(lines(shown, "loss.test")) == [names[0], *names[2:]]
        assert toggles.nth(1).get_attribute("aria-pressed") == "false"
        toggles.nth(1).click()
        assert list(lines(shown, "loss.test")) == names
        only = shown.get_by_role("button", name="only", exact=True)
        for way in ("Alt", "double click", "button"):
            if way == "Alt":
                toggles.nth(2).click(modifiers=["Alt"])
            elif way == "double click":
                toggles.nth(2).dblclick()
            else:
                only.nth(2).click()
            for chart in CHARTS:
                assert list(lines(shown, chart)) == [names[2]]
            shown.click("text=show all 4")
            assert list(lines(shown, "loss.test")) == names

        shown.get_by_role("button", name="runs", exact=True).nth(3).click()
        drawn = lines(shown, "loss.test")
        runs = {label: line for label, line in drawn.items() if line["isRun"]}
        assert len(runs) == 3
        assert sum("diverged" in label for label in runs) == 1
        for run in sweep[9:12]:
            (line,) = (line for label, line in runs.items() if label.startswith(run.name[:8]))
            assert dict(line["points"]) == logged(run, "loss.test")

    def test_hovering_shows_values(self, sweep: list[Path], opened: Open) -> None:
        """Of all groups, on all charts at once."""
        shown = opened(sweep).page
        steps, _, _ = expected_mean(sweep[:3], "accuracy.test")
        x, y = shown.evaluate(
            """step => {
              const {chart} = comparison.panels.get("accuracy.test");
              const {left, top} = chart.over.getBoundingClientRect();
              return [left + chart.valToPos(step, "x"), top + 40];
            }""",
            steps[1],
        )
        shown.mouse.move(x, y)
        tooltips = shown.locator("#charts .tooltip")
        for number, name in enumerate(CHARTS[:2]):
            expect(tooltips.nth(number)).to_be_visible()
            text = tooltips.nth(number).inner_text()
            assert f"training images seen: {steps[1]:,}" in text
            for label, runs in (("batch_norm lr=0.001", sweep[:3]), ("no_norm lr=0.01", sweep[9:11])):
                _, mean, _ = expected_mean(runs, name)
                written = f"{mean[1]:.2%}".replace("%", " %") if name == "accuracy.test" else f"{mean[1]:.4g}"
                assert re.search(rf"{re.escape(label)}\s+{re.escape(written)}", text), (written, text)
        shown.mouse.move(5, 5)
        expect(tooltips.first).to_be_hidden()

    def test_zooming(self, sweep: list[Path], opened: Open) -> None:
        """Along x in all charts at once, by the mouse and by keys; a double click shows all again."""
        shown = opened(sweep).page
        whole = shown.evaluate(RANGE, ["loss.test", "x"])
        assert whole == [0, max(logged(sweep[0], "loss.train"))]
        box = shown.locator("section.panel[aria-label='training loss'] .u-over").bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        shown.mouse.move(box["x"] + box["width"] * 0.25, middle)
        shown.mouse.down()
        shown.mouse.move(box["x"] + box["width"] * 0.75, middle + 3, steps=5)
        shown.mouse.up()
        zoomed = np.array([0.25, 0.75]) * whole[1]
        for name in CHARTS:
            np.testing.assert_allclose(shown.evaluate(RANGE, [name, "x"]), zoomed, atol=whole[1] / 100)
        shown.get_by_label("filter").fill("norm=none")  # whatever else is chosen, the zoom stays
        np.testing.assert_allclose(shown.evaluate(RANGE, ["loss.test", "x"]), zoomed, atol=whole[1] / 100)
        shown.locator("section.panel[aria-label='training loss'] .u-over").dblclick()
        for name in CHARTS:
            assert shown.evaluate(RANGE, [name, "x"]) == whole
        shown.locator("section.panel[aria-label='test loss'] .plot").focus()
        shown.keyboard.press("ArrowRight")
        expect(shown.locator("section.panel[aria-label='test loss'] .tooltip")).to_be_visible()
        shown.keyboard.press("+")
        low, high = shown.evaluate(RANGE, ["accuracy.test", "x"])
        assert high - low < 0.6 * whole[1]
        shown.keyboard.press("Escape")
        assert shown.evaluate(RANGE, ["accuracy.test", "x"]) == whole

    def test_axes(self, sweep: list[Path], opened: Open) -> None:
        """Logarithmic or linear, all values or those after the start, images or epochs."""
        shown = opened(sweep).page
        distribution = "([name, axis]) => comparison.panels.get(name).chart.scales[axis].distr"
        assert shown.evaluate(distribution, ["loss.test", "y"]) == 3
        assert shown.evaluate(distribution, ["accuracy.test", "y"]) == 1
        panel = shown.locator("section.panel[aria-label='test loss']")
        panel.get_by_role("button", name="log y").click()
        assert shown.evaluate(distribution, ["loss.test", "y"]) == 1
        assert shown.evaluate(distribution, ["accuracy.test", "x"]) == 1
        shown.get_by_label("logarithmic x").check()
        for name in CHARTS:
            assert shown.evaluate(distribution, [name, "x"]) == 3
        shown.get_by_label("logarithmic x").uncheck()

        training = shown.locator("section.panel[aria-label='training loss']")
        training.get_by_role("button", name="log y").click()
        cut = "The y axis does not show all values"
        expect(training.locator(".notes")).to_contain_text(cut)
        training.get_by_role("button", name="full range").click()
        expect(training.locator(".notes")).not_to_contain_text(cut)
        low, high = shown.evaluate(RANGE, ["loss.train", "y"])
        for runs in (sweep[:3], sweep[3:6], sweep[6:9], sweep[9:11]):
            _, mean, interval = expected_mean(runs, "loss.train")
            assert low <= min(mean.min(), interval.min())
            assert max(mean.max(), interval.max()) <= high

        shown.get_by_label("x axis").select_option("epochs")
        steps, mean, _ = expected_mean(sweep[:3], "loss.test")
        points = lines(shown, "loss.test")["batch_norm lr=0.001"]["points"]
        np.testing.assert_allclose(points, np.array([np.array(steps) / 1000, mean]).T)

    def test_a_short_logarithmic_axis(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        """It has several labels, also if no power of ten is in it."""
        run = another(sweep[0], tmp_path / "logs", "60beef")
        log(run, [0.9, 0.91, 0.92], losses=[0.19, 0.17, 0.15])
        shown = opened([run]).page
        labels = [text for text in shown.evaluate("comparison.panels.get('loss.test').chart.axes[1]._values") if text]
        assert 3 <= len(labels) <= 12
        assert labels == sorted(set(labels), key=float)

    def test_the_interval_at_a_single_step(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        """After one epoch a band would have no width: it is a bar."""
        runs = [another(run, tmp_path / "logs", f"6{number}beef") for number, run in enumerate(sweep[:3])]
        for run, accuracy in zip(runs, (0.91, 0.92, 0.94), strict=True):
            log(run, [accuracy])
        shown = opened(runs).page
        (line,) = lines(shown, "accuracy.test").values()
        (step, mean), (_, high) = line["points"][0], line["high"][0]
        painted = """([step, value]) => {
          const {chart} = comparison.panels.get("accuracy.test");
          const [x, y] = [chart.valToPos(step, "x", true), chart.valToPos(value, "y", true)].map(Math.round);
          return [...chart.ctx.getImageData(x - 1, y, 3, 1).data];
        }"""
        assert max(shown.evaluate(painted, [step, (mean + high) / 2])[3::4]) > 200

    def test_zooming_by_touch(self, sweep: list[Path], opened: Open) -> None:
        """A finger that moves to the side chooses a part of x; one that moves down scrolls the page."""
        shown = opened(sweep, width=400, has_touch=True).page
        panel = shown.locator("section.panel[aria-label='training loss'] .u-over")
        panel.scroll_into_view_if_needed()
        whole = shown.evaluate(RANGE, ["loss.test", "x"])
        touch = shown.context.new_cdp_session(shown)

        def move(*places: tuple[float, float]) -> None:
            box = panel.bounding_box()
            assert box is not None
            for kind, (right, down) in zip(["touchStart", *["touchMove"] * (len(places) - 1)], places, strict=True):
                point = {"x": box["x"] + box["width"] * right, "y": box["y"] + box["height"] * down}
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        move((0.25, 0.5), (0.35, 0.5), (0.6, 0.52), (0.75, 0.52))
        shown.wait_for_function("() => comparison.state.zoomX")
        np.testing.assert_allclose(
            shown.evaluate(RANGE, ["loss.test", "x"]), np.array([0.25, 0.75]) * whole[1], atol=whole[1] / 50
        )
        shown.get_by_role("button", name="reset zoom").click()
        assert shown.evaluate(RANGE, ["loss.test", "x"]) == whole
        before = shown.evaluate("window.scrollY")
        move((0.5, 0.8), (0.5, 0.6), (0.5, 0.4), (0.51, 0.1))
        shown.wait_for_function("before => window.scrollY > before", arg=before)
        assert shown.evaluate(RANGE, ["loss.test", "x"]) == whole

    def test_different_test_images_are_reported(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        clothes = another(sweep[0], tmp_path / "logs", "60beef", dataset="FashionMNIST")
        shown = opened([sweep[0], clothes, sweep[6]]).page
        expect(shown.locator("#reading")).to_contain_text("cannot be compared (they differ in dataset).")
        shown.locator(".chip .toggle", has_text="FashionMNIST").click()
        expect(shown.locator("#reading")).not_to_contain_text("cannot be compared")

    def test_the_sentences_of_the_command(self, sweep: list[Path], opened: Open) -> None:
        """Below the table, as long as it has the groups that they compare."""
        shown = opened(sweep).page
        expected = sentences(read_groups([read_run(run) for run in sweep]))
        assert any("95 % interval" in sentence for sentence in expected)
        expect(shown.locator("#sentences li")).to_have_text(expected)
        shown.locator("#filter").fill("norm=none")
        expect(shown.locator("#sentences li")).to_have_count(0)
        shown.locator("#filter").fill("")
        shown.locator("#by").select_option("norm")
        expect(shown.locator("#sentences li")).to_have_count(0)

    def test_smoothing(self, sweep: list[Path], opened: Open) -> None:
        """Each run is smoothed, then averaged; the means before that are drawn faintly."""
        shown = opened(sweep).page
        shown.get_by_label("smoothing").fill("0.8")
        expected = []
        for run in sweep[:3]:
            average, weight, values = 0.0, 0.0, []
            for value in logged(run, "loss.train").values():
                average, weight = 0.8 * average + 0.2 * value, 0.8 * weight + 0.2
                values.append(average / weight)
            expected.append(values)
        steps, mean, _ = expected_mean(sweep[:3], "loss.train")
        drawn = lines(shown, "loss.train")["batch_norm lr=0.001"]
        assert_points(drawn["points"], steps, np.mean(expected, axis=0), 1e-9)
        low, high = scipy.stats.t.interval(0.95, 2, np.mean(expected, axis=0), scipy.stats.sem(expected, axis=0))
        assert_points(drawn["low"], steps, low, 1e-9)
        assert_points(drawn["high"], steps, high, 1e-9)
        faint = [line for line in shown.evaluate(LINES, "loss.train") if line["faint"]]
        assert len(faint) == 4
        assert_points(faint[0]["points"], steps, mean)

    def test_grouping_by_a_setting(self, sweep: list[Path], opened: Open) -> None:
        shown = opened(sweep).page
        by = shown.get_by_label("group by")
        assert by.locator("option").all_inner_texts() == [
            *("settings but the seed", "each run", "norm", "optimizer.learning_rate", "seed.seed")
        ]
        by.select_option("norm")
        drawn = lines(shown, "accuracy.test")
        assert drawn.keys() == {"norm=batch_norm", "norm=none"}
        steps, mean, _ = expected_mean(sweep[:6], "accuracy.test")
        assert_points(drawn["norm=batch_norm"]["points"], steps, mean)
        by.select_option("each run")
        shown.click("text=show all 12")
        drawn = lines(shown, "accuracy.test")
        assert len(drawn) == 12
        for run, (label, line) in zip(sweep, drawn.items(), strict=True):
            assert label.startswith(run.name[:8])
            assert line["low"] is None
            assert dict(line["points"]) == logged(run, "accuracy.test")

    def test_folders_of_the_same_name(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        """In different places: two runs."""
        same = varied(sweep[0], tmp_path / "logs", "77beef", settings={"norm": "none"})
        other = same.rename(same.with_name(sweep[0].name))
        shown = opened([sweep[0], other]).page
        shown.get_by_label("group by").select_option("each run")
        drawn = shown.evaluate(LINES, "loss.test")
        assert [dict(line["points"]) for line in drawn] == [logged(run, "loss.test") for run in (sweep[0], other)]

    def test_a_run_that_was_repeated_counts_once(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        """The newest. Settings that do not change the numbers make no difference."""
        newest = varied(sweep[0], tmp_path / "logs", "590beef", settings={"seed.seed": 1, "keep": 5})
        shown = opened([*sweep[:2], newest]).page
        (label,) = drawn = lines(shown, "loss.test")
        steps, mean, _ = expected_mean([sweep[1], newest], "loss.test")
        assert_points(drawn[label]["points"], steps, mean)
        assert shown.locator(".chip .count").inner_text() == "n = 2, 1 repeated, left out"

    def test_a_run_that_is_not_tested_yet_does_not_count(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        """It would leave almost nothing to average."""
        begun = varied(sweep[0], tmp_path / "logs", "590beef", settings={"seed.seed": 7}, part=0.1)
        assert "accuracy.test" not in metrics(begun)
        shown = opened([*sweep[:2], begun]).page
        for name in CHARTS:
            (drawn,) = lines(shown, name).values()
            steps, mean, _ = expected_mean(sweep[:2], name)
            assert_points(drawn["points"], steps, mean)
        assert shown.locator(".chip .count").inner_text() == "n = 2, 1 not tested yet, left out"

    def test_names_that_the_user_has_given(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        """A group has the name of its runs, if all of them have one."""
        runs = [varied(run, tmp_path / "logs", f"5{number}beef", settings={}) for number, run in enumerate(sweep[:6])]
        for run in runs[:3]:
            notes.write(run, {"name": "the small rate"})
        notes.write(runs[3], {"name": "another"})
        shown = opened(runs).page
        assert shown.locator(".chip .name").all_inner_texts() == ["the small rate", "lr=0.01"]

    def test_the_table(self, sweep: list[Path], opened: Open) -> None:
        """Means with intervals of the final and the best values, sorted by any column; the runs on demand."""
        shown = opened(sweep).page
        heads = shown.locator("thead th").all_inner_texts()
        assert heads == [
            *("group", "n", "final accuracy.test", "best accuracy.test", "final loss.test", "best loss.test"),
            *("time", "norm", "lr"),
        ]
        finals = {}
        for label, runs in (("batch_norm lr=0.001", sweep[:3]), ("batch_norm lr=0.01", sweep[3:6])):
            values = [list(logged(run, "accuracy.test").values()) for run in runs]
            cells = shown.locator("tbody tr", has_text=label).first.locator("td").all_inner_texts()
            for number, kind in ((2, [one[-1] for one in values]), (3, [max(one) for one in values])):
                low, high = scipy.stats.t.interval(0.95, 2, np.mean(kind), scipy.stats.sem(kind))
                assert cells[number] == f"{100 * np.mean(kind):.2f} ± {50 * (high - low):.2f} %"
            finals[label] = cells[2]
        # Of runs with different lengths, the last value that all have.
        values = [list(logged(run, "accuracy.test").values()) for run in sweep[6:9]]
        common = min(map(len, values)) - 1
        cells = shown.locator("tbody tr", has_text="no_norm lr=0.001").first.locator("td").all_inner_texts()
        assert cells[2].startswith(f"{100 * np.mean([one[common] for one in values]):.2f} ±")
        assert cells[6] == "–"  # their times cannot be compared
        cells = shown.locator("tbody tr", has_text="batch_norm lr=0.01").first.locator("td").all_inner_texts()
        assert cells[6] == f"{duration(read_run(sweep[3]).elapsed)} ± 0.0 s"  # copies of one run

        def column(number: int) -> list[float]:
            return [float(text.split()[0]) for text in shown.locator(f"tbody td:nth-child({number})").all_inner_texts()]

        head = shown.locator("thead button", has_text="final accuracy.test")
        head.click()
        assert column(3) == sorted(column(3))
        head.click()
        assert column(3) == sorted(column(3), reverse=True)
        assert shown.locator("thead th").nth(2).get_attribute("aria-sort") == "descending"
        shown.locator("thead button", has_text="lr").click()
        assert column(9) == sorted(column(9))

        shown.get_by_label("runs of batch_norm lr=0.01", exact=True).click()
        rows = shown.locator("tbody tr.run")
        assert rows.count() == 3
        assert {text.split()[0] for text in rows.locator("td:first-child").all_inner_texts()} == {
            run.name[:8] for run in sweep[3:6]
        }
        shown.get_by_text("columns").click()
        shown.get_by_label("batch_size", exact=True).check()
        assert shown.locator("thead th").all_inner_texts()[8] == "batch_size"
        shown.get_by_label("best loss.test", exact=True).uncheck()
        assert "best loss.test" not in shown.locator("thead th").all_inner_texts()

    @pytest.mark.parametrize("last", ["rates", "seeds"])
    def test_the_sweep_is_a_column_if_it_differs(
        self, sweep: list[Path], tmp_path: Path, opened: Open, last: str
    ) -> None:
        runs = [another(run, tmp_path / "logs", f"6{number}beef") for number, run in enumerate(sweep[:3])]
        for run, name in zip(runs, ("rates", "rates", last), strict=True):
            with (run / "run.yaml").open("a") as info:
                info.write(f"sweep: {name}\n")
        assert ("sweep" in opened(runs).page.locator("thead th").all_inner_texts()) == (last == "seeds")

    def test_the_filter(self, sweep: list[Path], opened: Open) -> None:
        shown = opened(sweep).page
        accuracy = {run: list(logged(run, "accuracy.test").values())[-1] for run in sweep}
        limit = sorted(accuracy.values())[6]
        entered = shown.get_by_label("filter")
        for text, expected in (
            ("norm=none", sweep[6:]),
            ("norm=none and lr>0.005", sweep[9:]),
            ("seed.seed<=2 and norm!=none", [sweep[0], sweep[1], sweep[3], sweep[4]]),
            ("status=diverged", [sweep[11]]),
            (f"accuracy.test>={limit}", [run for run in sweep if accuracy[run] >= limit]),
            (sweep[4].name[:6], [sweep[4]]),
            ("lr=0.01 batch_norm", []),  # no learning rate is called that
            ("BATCH_NORM completed", sweep[:6]),
            ("", sweep),
        ):
            entered.fill(text)
            runs = shown.evaluate("comparison.groups.flatMap(group => group.runs.map(run => run.uuid))")
            assert sorted(runs) == sorted(run.name for run in expected), text
            assert shown.locator("#filter-error").inner_text() == ""
        for text, message in (
            ("nrom=none", "no setting or metric is called nrom"),
            ("norm=", 'norm=: write key=value, key>value, …, joined by "and"'),
            ("norm=none and", 'write key=value, key>value, …, joined by "and"'),
        ):
            entered.fill(text)
            assert message in shown.locator("#filter-error").inner_text()
            assert shown.locator("tbody tr").count() > 0
        entered.fill("seed=1")
        assert shown.locator(".chip .count").all_inner_texts() == ["n = 1, 2 filtered out"] * 4

    def test_distributions(self, sweep: list[Path], opened: Open) -> None:
        """As bands of percentiles of a run or a group, and as a line for each channel."""
        shown = opened(sweep).page
        section = shown.locator("#distributions")
        drawn = lines(shown, "distribution")
        assert drawn.keys() == {"batch_norm lr=0.001", "batch_norm lr=0.01"}
        name = "bn.norm1.running_mean"
        values = [np.array([one for _, one in metrics(run)[name]]) for run in sweep[:3]]
        percentiles = np.mean([np.percentile(one, [0, 15, 50, 85, 100], axis=1) for one in values], axis=0)
        steps = [step for step, _ in metrics(sweep[0])[name]]
        line = drawn["batch_norm lr=0.001"]
        for part, expected in zip(("low", "points", "high"), percentiles[1:4], strict=True):
            assert_points(line[part], steps, expected, 1e-5)

        section.get_by_label("layer").select_option("norm2")
        section.get_by_label("statistic").select_option("bn.norm2.running_var")
        section.get_by_label("layer").select_option("norm3")
        name = "bn.norm3.running_var"  # the same statistic
        assert section.get_by_label("statistic").input_value() == name
        assert section.get_by_label("per channel").is_disabled()
        shown.locator("#who").select_option(f"run {sweep[4].name} 1")
        drawn = lines(shown, "distribution")
        values = [np.array([one for _, one in metrics(sweep[4])[name]])]
        low, p15, median, p85, high = np.percentile(values[0], [0, 15, 50, 85, 100], axis=1)
        (label,) = drawn.keys() - {"minimum", "maximum"}
        for points, expected in (
            (drawn["minimum"]["points"], low),
            (drawn[label]["low"], p15),
            (drawn[label]["points"], median),
            (drawn[label]["high"], p85),
            (drawn["maximum"]["points"], high),
        ):
            assert_points(points, steps, expected, 1e-6)

        section.get_by_label("per channel").check()
        drawn = lines(shown, "distribution")
        assert len(drawn) == 500
        for channel in (0, 17, 499):
            assert_points(drawn[f"channel {channel}"]["points"], steps, values[0][:, channel], 1e-6)
        highest = int(values[0][1].argmax())
        x, y = shown.evaluate(
            """([step, value]) => {
              const {chart, plot} = comparison.panels.get("distribution");
              plot.scrollIntoView({block: "center"});
              const {left, top} = chart.over.getBoundingClientRect();
              return [left + chart.valToPos(step, "x"), top + chart.valToPos(value, "y")];
            }""",
            [steps[1], values[0][1, highest]],
        )
        shown.mouse.move(x, y)
        expect(section.locator(".tooltip")).to_contain_text(f"channel {highest}")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_a_narrow_window(self, sweep: list[Path], opened: Open, scheme: str) -> None:
        """Nothing is wider than the window, and text differs from the ground."""
        shown = opened(sweep, width=400, color_scheme=scheme).page
        assert shown.evaluate("document.documentElement.scrollWidth") == 400
        widths = shown.evaluate("[...comparison.panels.values()].map(panel => panel.chart.width)")
        assert all(300 < width <= 400 for width in widths)
        ground, ink = shown.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        luminance = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in (ground, ink)]
        assert abs(luminance[0] - luminance[1]) > 0.7
        assert (luminance[0] > 0.5) == (scheme == "light")
        shown.set_viewport_size({"width": 1000, "height": 800})
        shown.wait_for_function("() => comparison.panels.get('loss.test').chart.width > 440")

    def test_many_groups(self, full_run: Path, tmp_path: Path, opened: Open) -> None:
        """Only the best ones are drawn at first, which the page states; the others on demand."""
        runs = [
            varied(full_run, tmp_path / "logs", f"{number}beef", settings={"optimizer.learning_rate": number / 1000})
            for number in range(10, 60)
        ]
        shown = opened(runs).page
        best = sorted(runs, key=lambda run: list(logged(run, "accuracy.test").values())[-1], reverse=True)[:8]
        labels = lines(shown, "accuracy.test").keys()
        finals = {list(logged(run, "accuracy.test").values())[-1] for run in best}
        assert len(labels) == 8
        assert {line["points"][-1][1] for line in lines(shown, "accuracy.test").values()} == finals
        assert "8 of 50 groups are drawn" in shown.locator("#legend").inner_text()
        assert set(shown.locator(".chip .name").all_inner_texts()[:8]) == labels  # all of them in a small window too
        shown.click("text=show all 50")
        assert len(lines(shown, "accuracy.test")) == 50

    def test_hostile_names(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        """They are text. What a run says of itself never acts."""
        attack = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
        run = another(sweep[0], tmp_path / "logs", "<img src=x onerror=alert(1)>")
        notes.write(run, {"name": attack, "tags": [attack, "a\u202eb"], "note": f"<!--{attack}"})
        log = (run / "log.jsonl").read_text()
        renamed = log.replace("bn.norm1.running_mean", "bn.<b>x</b>.running_mean").replace("loss.valid", "__proto__")
        (run / "log.jsonl").write_text(renamed)
        shown = opened([run, sweep[6]]).page
        shown.get_by_label("group by").select_option("each run")
        text = shown.inner_text("body")
        assert attack in text
        assert "\u202e" not in text
        shown.locator("#layer").select_option("<b>x</b>")
        assert len(lines(shown, "distribution")) == 1
        assert shown.locator("img, script[src], body b b").count() == 0
        assert shown.title() == "labml_bn: runs compared"

    def test_keys_reach_everything(self, sweep: list[Path], opened: Open) -> None:
        """What has the focus keeps it when the page is drawn again."""
        shown = opened(sweep).page
        toggle = shown.locator(".chip .toggle").nth(1)
        toggle.focus()
        shown.keyboard.press("Enter")
        assert shown.locator(".chip .toggle").nth(1).get_attribute("aria-pressed") == "false"
        assert shown.evaluate("document.activeElement.title") == "hide or show"
        shown.keyboard.press("Tab")
        shown.keyboard.press("Enter")
        assert list(lines(shown, "loss.test")) == ["batch_norm lr=0.01"]

    def test_a_run_without_metrics(self, sweep: list[Path], tmp_path: Path, opened: Open) -> None:
        """One that has just been started."""
        run = another(sweep[0], tmp_path / "logs", "99beef")
        (run / "log.jsonl").write_text("")
        shown = opened([run]).page
        assert "1 of 1 runs in 1 group" in shown.inner_text("#summary")
        assert shown.locator("tbody tr").count() == 1
