"""Which curves the charts of a run's page show: at first, and when the run logs new metrics.

labml's app stores the choice of a chart as a list with a number for each metric, in the order of their names. So every
list is rewritten when a metric is added or removed. What the user has chosen is kept.
"""

import functools
import re
import time
from collections.abc import Callable, Sequence

from labml_app import utils
from labml_app.analyses.experiments.comparison import ComparisonPreferencesIndex, ComparisonPreferencesModel
from labml_app.analyses.experiments.custom_metrics import CustomMetricsListIndex, CustomMetricsListModel
from labml_app.analyses.experiments.metrics import MetricsPreferencesIndex, MetricsPreferencesModel

SHOWN, HIDDEN = 1, -1

#: A chart's choice, and the choice for a metric by its name.
Choice = list[int]
Chosen = Callable[[str], bool]

#: The percentiles of a layer's statistic, which have a chart of their own.
_PERCENTILE = re.compile(r"bn\.(?P<layer>.+)\.(?P<statistic>running_mean|running_var)\.p\d+")
_STATISTICS = {"running_mean": "running mean", "running_var": "running variance"}


def default_choice(names: Sequence[str]) -> Choice:
    """What a chart shows at first: the losses and accuracies. A run can have hundreds of other curves."""
    return [SHOWN if _is_result(name) else HIDDEN for name in names]


# labml's app uses it for comparisons, of which it would otherwise send the losses only.
utils.get_default_series_preference = default_choice


def update(uuid: str, before: Sequence[str], now: Sequence[str]) -> None:
    """Adapt the charts of a run to the metrics that it has logged by now. Both lists are sorted names."""
    if list(before) == list(now):
        return
    shown: MetricsPreferencesModel = MetricsPreferencesIndex.get(uuid).load()
    shown.series_preferences = _moved(shown.series_preferences, before, now, _is_result)
    shown.save()
    for key in ComparisonPreferencesModel.get_all():
        _update_comparison(key.load(), uuid, before, now)
    _update_charts(uuid, before, now)


def remove(uuid: str) -> None:
    """Remove the additional charts of a run, and its comparison with another."""
    key = CustomMetricsListIndex.get(uuid)
    if key is not None:
        for _, chart in key.load().metrics:
            chart.load().preference_key.delete()
            chart.delete()
        key.delete()
        CustomMetricsListIndex.delete(uuid)
    key = ComparisonPreferencesIndex.get(uuid)
    if key is not None:
        key.delete()
        ComparisonPreferencesIndex.delete(uuid)


def _is_result(name: str) -> bool:
    return name.split(".")[0] in {"loss", "accuracy"}


def _never(_: str) -> bool:
    return False


def _moved(choice: Choice, before: Sequence[str], now: Sequence[str], is_shown: Chosen) -> Choice:
    """The same choice for the metrics `now`; new ones are shown if `is_shown`."""
    chosen = dict(zip(before, choice, strict=False))
    return [chosen.get(name, SHOWN if is_shown(name) else HIDDEN) for name in now]


def _update_comparison(
    comparison: ComparisonPreferencesModel, uuid: str, before: Sequence[str], now: Sequence[str]
) -> None:
    """Adapt a comparison, if it is of this run or with it. labml's app replaces an empty choice by the default."""
    own = ComparisonPreferencesIndex.get(uuid)
    if own is not None and str(own) == str(comparison.key) and comparison.series_preferences:
        moved = _moved(comparison.series_preferences, before, now, _never) if before else []
        comparison.series_preferences = moved
        comparison.save()
    if comparison.base_experiment == uuid and comparison.base_series_preferences:
        moved = _moved(comparison.base_series_preferences, before, now, _never) if before else []
        comparison.base_series_preferences = moved
        comparison.save()


def _update_charts(uuid: str, before: Sequence[str], now: Sequence[str]) -> None:
    """Adapt the additional charts, and add one of the accuracy and one of each layer's statistics.

    The latter show percentiles, as the paper's Figure 1. A chart is added when its first metric is logged; one that the
    user has deleted is not added again.
    """
    key = CustomMetricsListIndex.get(uuid)
    charts: CustomMetricsListModel = CustomMetricsListModel() if key is None else key.load()
    if key is None:
        charts.save()
        CustomMetricsListIndex.set(uuid, charts.key)
    for _, key in charts.metrics:
        chart = key.load()
        choice = chart.preference_key.load()
        belongs = functools.partial(_belongs, title=chart.name)
        choice.series_preferences = _moved(choice.series_preferences, before, now, belongs)
        choice.save()
    titles = {name: title for name in now if (title := _title(name))}
    old = {title for name, title in titles.items() if name in before}
    created = time.time()
    for place, title in enumerate(dict.fromkeys(titles.values())):
        if title in old:
            continue
        added = charts.create_custom_metric({"name": title})
        choice = [SHOWN if titles.get(name) == title else HIDDEN for name in now]
        # The page shows the newest chart first, and smooths curves by half unless told otherwise.
        chart = dict(charts.metrics)[added["id"]].load()
        chart.update({"preferences": {"series_preferences": choice, "smooth_value": 0.0}})
        chart.created_time = created - place
        chart.save()


def _title(name: str) -> str:
    """The title of the additional chart that a metric belongs to; empty if there is none."""
    if name.startswith("accuracy."):
        return "accuracy"
    found = _PERCENTILE.fullmatch(name)
    return f"{found['layer']}: {_STATISTICS[found['statistic']]}, percentiles over channels" if found else ""


def _belongs(name: str, title: str) -> bool:
    return _title(name) == title
