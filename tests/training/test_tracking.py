"""What labml's own writer sends of the metrics that are logged."""

import torch
from labml.internal.tracker import tracker_singleton
from labml.internal.tracker.writers import app

from labml_bn import BatchNorm
from labml_bn.training import tracking


def test_a_dashboard_gets_the_mean_over_channels() -> None:
    """labml's real writer for its server, without a server."""

    class Nobody:
        def has_data(self, source: object) -> None:
            pass

    writer = app.Writer(Nobody(), frequency=1e9)
    layer = BatchNorm(4)
    layer(torch.randn(10, 4))
    tracker_singleton().add_writer(writer)
    try:
        tracking.save_running_statistics(64, torch.nn.Sequential(layer))
    finally:
        tracker_singleton().remove_writer(writer)
    sent = writer.get_data_packet().data["track"]
    for name in ("running_mean", "running_var"):
        values = getattr(layer, name)
        assert sent[f"bn.0.{name}"]["step"] == [64]
        torch.testing.assert_close(sent[f"bn.0.{name}"]["value"], [values.mean().item()])
