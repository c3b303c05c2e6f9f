"""The dashboard's page in a real browser: it shows the logged values, and contacts no other machine."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page

from labml_bn import load_runs
from labml_bn.dashboard.address import run_id
from labml_bn.records import notes
from tests.browser import Visit, needs_browser, visiting
from tests.conftest import Begin, Run, another, metrics, runs
from tests.dashboard.conftest import Start, logged, wait_until

#: A chart; the small curves in its legend are sparklines.
CHART = "svg:not(.sparkline)"

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[Visit]:
    """A fresh browser."""
    with visiting(tmp_path / "browser") as visit:
        yield visit


def lines(page: Page, selector: str) -> list[NDArray[np.float64]]:
    """The points [n, 2] of each drawn line, in pixels."""
    page.wait_for_selector(selector, state="attached")
    drawn = page.eval_on_selector_all(selector, "paths => paths.map(path => path.getAttribute('d'))")
    found = []
    for path in drawn:
        parts = re.findall(r"[MCL]([^MCLZ]*)", path)
        found.append(np.array([[float(number) for number in part.split(",")[-2:]] for part in parts]))
    return found


def shows(points: NDArray[np.float64], steps: NDArray[np.float64], values: NDArray[np.float64]) -> bool:
    """Whether a line shows these values, with linear axes of any scale, to a thousandth of the line's extent."""
    if len(points) != len(steps):
        return False
    for pixels, data in zip(points.T, (steps, values), strict=True):
        scale = np.stack([data, np.ones_like(data)], axis=1)
        fitted = scale @ np.linalg.lstsq(scale, pixels, rcond=None)[0]
        if np.abs(fitted - pixels).max() > 1e-3 * np.ptp(pixels) or (np.ptp(data) > 0 and np.ptp(pixels) == 0):
            return False
    return True


def assert_drawn(drawn: list[NDArray[np.float64]], run: Path, names: list[str]) -> None:
    """Assert that each of these series of the run is one of the lines."""
    series = logged(run)
    for name in names:
        steps, values = map(np.array, series[name])
        assert any(shows(points, steps, values) for points in drawn), name


def assert_labelled(page: Page) -> None:
    """Assert that every icon is labelled, or beside a text, or in a control that has a label."""
    unlabelled = page.eval_on_selector_all(
        "[class*='fa-']",
        """icons => icons.filter(icon => {
            const control = icon.closest("nav, a, button, .input-container, form") ?? icon;
            return control.offsetParent !== null && !control.getAttribute("aria-label")
                && !/[a-z]/i.test(control.textContent) && !icon.classList.contains("fa-search");
        }).map(icon => icon.className)""",
    )
    assert unlabelled == []


def test_two_runs(visit: Visit, work: Path, train: Run, data_path: Path, start: Start) -> None:
    settings = ["epochs=2", "train_samples=3000", "valid_samples=1000", "device.use_cuda=false"]
    assert train(*settings, f"data_path={data_path}").returncode == 0
    page = visit.page
    with start() as dashboard:
        page.goto(dashboard.printed)
        page.wait_for_selector("text=batch_norm epochs=2")
        assert dashboard.token not in page.url
        assert page.locator("text=no_norm").count() == 0

        # The second run appears while the page is open.
        done = train(*settings, f"data_path={data_path}", "norm=none", "optimizer.learning_rate=0.01")
        first, second = runs(work)
        assert f"Watch it: {dashboard.url}/run/{second.name}\n" in done.stdout
        page.wait_for_timeout(2000)
        page.reload()
        page.wait_for_selector("text=no_norm epochs=2")
        assert page.locator("text=completed").count() == 2
        names = [name.split(" epochs")[0] for name in page.locator("h5:has-text('epochs=2')").all_inner_texts()]
        assert names == ["no_norm", "batch_norm"]  # the newest first
        final = [(run.name[:8], metrics(run)["accuracy.test"][-1][1][0]) for run in (second, first)]
        under_the_names = [f"{uuid}, accuracy {accuracy:.2%} after 2 epochs" for uuid, accuracy in final]
        assert page.locator(".runs-list h6").all_inner_texts() == under_the_names
        assert_labelled(page)
        page.click("[aria-label=Menu]")
        page.wait_for_selector("text=Archived Runs")
        links = page.locator(".nav-links a").all_inner_texts()
        assert links == ["Runs", "Archived Runs", "All Runs", "Documentation", "Settings"]

        # A note survives the database; the fields without a value are not shown.
        page.goto(f"{dashboard.url}/run/{first.name}/header")
        page.fill("textarea", "looked at")
        page.click("[aria-label=Save]")
        page.wait_for_selector("[aria-label=Save].disabled")
        assert json.loads((first / "notes.json").read_text()) == {"note": "looked at"}
        fields = {name.lower() for name in page.locator(".item-key").all_inner_texts()}
        assert fields >= {"run name", "comment", "note", "run status", "uuid", "start time"}
        assert not fields & {
            "rank",
            "world size",
            "tags",
            "size",
            "checkpoints size",
            "tensorboard size",
            "remote repo",
        }
        assert_labelled(page)

        # Its charts show the logged values: losses and accuracies by default, then every metric.
        page.goto(dashboard.url)
        page.click("text=batch_norm epochs=2")
        page.wait_for_url(f"**/run/{first.name}")
        page.wait_for_selector("text=norm3: running variance, percentiles over channels")
        assert page.locator("text=Process").count() == page.locator("text=Computer").count() == 0
        assert_labelled(page)
        series = sorted(logged(first))
        results = [name for name in series if name.startswith(("loss.", "accuracy."))]
        assert len(results) == 6
        page.wait_for_function("count => document.querySelectorAll('#chart').length === count", arg=2 + 6)
        assert_drawn(
            lines(page, f"{CHART} path.unsmoothed-line"), first, series
        )  # the percentiles have their own charts
        page.goto(f"{dashboard.url}/run/{first.name}/metrics")
        page.wait_for_selector("text=bn.norm3.running_var.p85")
        drawn = page.locator(f"{CHART} path.unsmoothed-line")
        assert drawn.count() == len(results)
        assert len(set(drawn.evaluate_all("paths => paths.map(path => path.getAttribute('stroke'))"))) == len(results)
        others = sorted(set(series) - set(results))
        assert_labelled(page)
        for name in others:
            page.locator(".sparkline-list-item", has_text=name).click()
        page.wait_for_timeout(500)
        assert_drawn(lines(page, f"{CHART} path.unsmoothed-line"), first, series)

        # Its settings.
        page.goto(f"{dashboard.url}/run/{second.name}/configs")
        page.wait_for_selector("text=train_samples")
        shown = page.inner_text("body").splitlines()
        for setting in ("normnone", "--- learning_rate0.01", "train_samples3,000", "epochs2"):
            assert any(line.startswith(setting) for line in shown), setting

        # The two compared.
        page.goto(f"{dashboard.url}/run/{first.name}/compare")
        page.click("[aria-label='Select the run to compare with']")
        page.click("text=no_norm epochs=2")
        page.wait_for_selector("text=Compared with")
        compared = ["accuracy.valid", "loss.valid"]
        for _ in range(2):  # also when the page is loaded again
            page.wait_for_selector(f"{CHART} path.smoothed-line.base", state="attached")
            own, other = (lines(page, f"{CHART} path.{kind}") for kind in ("unsmoothed-line", "smoothed-line.base"))
            assert len(own) == len(other) == 2
            assert_drawn(own, first, compared)
            assert "no_norm epochs=2" in page.inner_text("body")
            assert_labelled(page)
            page.reload()
        page.locator("[type=range]").fill("0")
        page.wait_for_timeout(500)
        assert_drawn(lines(page, f"{CHART} path.smoothed-line.base"), second, compared)

    assert visit.errors == []
    assert visit.hosts == {"127.0.0.1"}


def test_a_running_run_is_refreshed(visit: Visit, work: Path, begin: Begin, data_path: Path, start: Start) -> None:
    """The run's page and the list, opened while it is running, show its end within seconds, without being reloaded."""
    settings = ["epochs=12", "train_samples=1000", "valid_samples=500", "device.use_cuda=false"]
    with start() as dashboard, begin(*settings, f"data_path={data_path}") as training:
        wait_until(lambda: len(dashboard.runs()) == 1)
        (run,) = runs(work)
        page, listed = visit.page, visit.page.context.new_page()
        page.goto(f"{dashboard.url}/run/{run.name}?token={dashboard.token}")
        listed.goto(dashboard.url)
        for shown in (page, listed):
            shown.wait_for_selector("text=experiment is running")
            shown.evaluate("window.isFirst = true")
        assert training.poll() is None
        wait_until(lambda: training.poll() == 0, 120)
        for shown in (page, listed):
            shown.bring_to_front()
            shown.wait_for_selector("text=completed", timeout=30_000)
            assert shown.evaluate("window.isFirst")
        _, (accuracy,) = metrics(run)["accuracy.test"][-1]
        assert f"accuracy {accuracy:.2%} after 12 epochs" in listed.inner_text("body")
        page.bring_to_front()
        page.wait_for_selector("text=norm3: running variance, percentiles over channels")
        names = sorted(logged(run))
        page.wait_for_function(
            "count => document.querySelectorAll('svg:not(.sparkline) path.unsmoothed-line').length === count",
            arg=len(names) + len([name for name in names if name.startswith("accuracy.")]),
        )
        assert_drawn(lines(page, f"{CHART} path.unsmoothed-line"), run, names)
        slow_again = "() => Number(document.querySelector('.time-remaining').innerText) > 5"
        listed.bring_to_front()
        listed.wait_for_function(slow_again)
    assert visit.errors == []


def test_a_sweep(visit: Visit, trained: Path, work: Path, start: Start, command: Run) -> None:
    """The search field finds a sweep's runs by its name, also those with another name, and runs by any tag."""
    for number, norm in enumerate(["batch_norm", "none", "torch", "none"]):
        run = another(trained, work / "logs", f"{number}aaa0000", f"{8 + number:02}:00:00", norm=norm)
        with (run / "run.yaml").open("a") as info:
            info.write("sweep: norm.sweep\n")
    another(trained, work / "logs", "9aaa0000", "07:00:00")
    page = visit.page

    def listed(text: str, count: int) -> list[str]:
        """The names of the runs that the search field finds."""
        page.fill(".search-content input", text)
        page.wait_for_function("count => document.querySelectorAll('.runs-list h5').length === count", arg=count)
        return page.locator(".runs-list h5").all_inner_texts()

    with start() as dashboard:
        page.goto(dashboard.printed)
        page.wait_for_selector("text=torch_norm")
        assert len(listed("", 5)) == 5
        names = listed("norm.sweep", 4)
        assert [name.split()[0] for name in names] == ["no_norm", "torch_norm", "no_norm", "batch_norm"]
        assert listed("normXsweep", 0) == []

        # A name that is written on the page, and a tag that is added by a command.
        page.goto(f"{dashboard.url}/run/3aaa0000/header")
        page.wait_for_selector("text=norm.sweep")
        page.locator("input").first.fill("mine [")
        page.click("[aria-label=Save]")
        page.wait_for_selector("[aria-label=Save].disabled")
        done = command("runs", "--tag", "norm.sweep", "γ (2)", "--note", "3aaa", "the best")
        assert "mine [" in done.stdout
        wait_until(lambda: dashboard.get("run/3aaa0000")["note"] == "the best")
        page.goto(f"{dashboard.url}/run/3aaa0000/header")
        page.wait_for_selector("text=γ (2)")
        assert page.input_value("textarea") == "the best"
        page.goto(dashboard.url)
        page.wait_for_selector("text=torch_norm")
        assert listed("norm.sweep", 4)[0] == "mine ["
        assert listed("mine [", 1) == ["mine ["]
        assert len(listed("γ (2", 4)) == 4
    assert visit.errors == []


def test_the_table_in_a_notebook(visit: Visit, trained: Path, tmp_path: Path) -> None:
    """The form of `load_runs` for notebooks: what someone has written is text, and wide rows stay rows."""
    for number, name in enumerate(["", "<img src=x onerror=alert(1)> <b>"]):
        run = another(trained, tmp_path, f"{number}aaa0000", f"{8 + number:02}:00:00", **{"seed.seed": number})
        notes.write(run, {"name": name, "tags": ["<i>"]})
    page = visit.page
    page.set_content(load_runs(tmp_path)._repr_html_())
    heading, *rows = [row.locator("th, td").all_inner_texts() for row in page.locator("tr").all()]
    usual = ["run", "status", "epochs", "accuracy", "time", "started", "tags", "name"]
    assert heading == [*usual, "seed"]
    assert [[row[0], row[6], row[8]] for row in rows] == [["1aaa0000", "<i>", "1"], ["0aaa0000", "<i>", "0"]]
    assert rows[0][7] == "<img src=x onerror=alert(1)> <b>"
    assert page.locator("img, b, i").count() == 0
    assert visit.errors == []


def test_a_page_of_a_dashboard_that_was_started_again(visit: Visit, run: Path, work: Path, start: Start) -> None:
    """Without the new address it says what to do, and with it all works, also for a folder with another name."""
    renamed = run.rename(run.with_name("my_run"))
    page = visit.page
    with start() as dashboard:
        page.goto(dashboard.url)
        assert "open the address that the dashboard printed" in page.inner_text("body")
        page.goto((work / "logs" / "dashboard.html").as_uri())
        page.wait_for_selector("text=batch_norm epochs=1")
        page.context.clear_cookies()
        visit.errors.clear()
        page.click("text=batch_norm epochs=1")
        page.wait_for_selector("text=Open the address that the dashboard printed")
        assert page.locator("text=Login Again").count() == 0
        page.goto(dashboard.printed)
        page.wait_for_selector("text=batch_norm epochs=1")
        visit.errors.clear()  # the browser has reported each request that was refused
        page.click("text=batch_norm epochs=1")
        page.wait_for_url(f"**/run/{run_id('my_run')}")
        page.wait_for_selector("text=norm3: running variance, percentiles over channels")
        page.wait_for_function("count => document.querySelectorAll('#chart').length >= count", arg=8)
        assert_drawn(lines(page, f"{CHART} path.unsmoothed-line"), renamed, ["loss.train", "loss.valid"])
        page.goto(f"{dashboard.url}/settings")
        page.wait_for_selector("text=Dark")
        page.click("text=Dark")
        page.wait_for_function("() => document.body.className === 'dark'")
        page.goto(f"{dashboard.url}/runs")
        page.wait_for_function("() => document.body.className === 'dark'")
    assert visit.errors == []


def test_a_visit_records_hosts_and_errors(visit: Visit) -> None:
    visit.page.set_content("<script src='http://elsewhere.example/d3.js'></script><script>nothing.at.all</script>")
    visit.page.wait_for_timeout(500)
    assert "elsewhere.example" in visit.hosts
    assert any("nothing is not defined" in error for error in visit.errors)
