"""The experiment of labml's annotated implementation: `python -m tests.benchmarks.contenders.annotated`.

It needs `pip install --no-deps labml-nn==0.5.1`. Its own network, layer, optimizer, data loaders and loop are imported
and run as they are, with two exceptions: it trains for one epoch, on the CPU; and it does not track the network
itself, because with labml 0.5.3 that fails. Its loop validates on all the test images, a tenth of them at a time; the
accuracy at its end is computed after it, and not counted.
"""

import importlib
import tempfile
import time
from typing import Any

import torch
from labml import experiment, lab, tracker
from torch import nn

from tests.benchmarks.contenders import common


def main() -> None:
    given = common.arguments(__doc__)
    annotated: Any = importlib.import_module("labml_nn.normalization.batch_norm.mnist")
    do_not_track_modules()
    with tempfile.TemporaryDirectory() as folder:
        lab.configure({"path": folder, "data_path": str(given.data.resolve()), "experiments_path": folder})
        torch.manual_seed(given.seed)
        experiment.create(name="annotated")
        c = annotated.MNISTConfigs()
        settings = {"optimizer.optimizer": "Adam", "optimizer.learning_rate": common.LEARNING_RATE}
        experiment.configs(c, {**settings, "epochs": 1, "device.use_cuda": False})
        with experiment.start():
            for data, count in ((c.train_dataset, given.train), (c.valid_dataset, given.test)):
                data.data, data.targets = data.data[:count], data.targets[:count]
            _ = c.train_loader, c.valid_loader, c.model, c.optimizer  # labml makes them when they are first needed
            started = time.perf_counter()
            c.run()
            ended = time.perf_counter()
        not_counted = time.perf_counter()
        accuracy = evaluate(c.model, c.valid_dataset)
        common.report(ended - started, accuracy, time.perf_counter() - not_counted)


def do_not_track_modules() -> None:
    """The experiment calls `tracker.add('model', model)`, which labml 0.5.3 does not support."""
    add: Any = tracker.add

    def add_values(*arguments: Any, **named: Any) -> None:
        if not any(isinstance(argument, nn.Module) for argument in arguments):
            add(*arguments, **named)

    tracker.add = add_values


@torch.no_grad()
def evaluate(model: nn.Module, data: Any) -> float:
    """The accuracy on the images of torchvision's data set."""
    images = (data.data.unsqueeze(1).float() / 255 - common.MEAN) / common.STD
    model.eval()
    predictions = torch.cat([model(batch).argmax(dim=1) for batch in images.split(common.TEST_BATCH_SIZE)])
    return int((predictions == data.targets).sum()) / len(predictions)


if __name__ == "__main__":
    main()
