import numpy as np
import torch

from experiments import affine
from experiments.laboratory import DOES_NOT_HOLD, HOLDS, images, verdict
from tests.experiments.trying import verdict_of


def test_training_as_many_others_refutes_the_claim() -> None:
    assert verdict_of(affine, trained=affine.ELSEWHERE) == DOES_NOT_HOLD


def test_what_the_claim_says_holds() -> None:
    found = {
        "accuracy: only γ and β": np.array([0.95, 0.96, 0.955]),
        "accuracy: as many others": np.array([0.6, 0.61, 0.59]),
        "disabled: after": np.array([0.33, 0.34, 0.35]),
    }
    assert verdict(affine.judge(found)) == HOLDS
    assert verdict(affine.judge(found | {"disabled: after": np.zeros(3)})) == DOES_NOT_HOLD


def test_what_is_trained() -> None:
    """As many parameters of each kind, none of them in both, and all of them in the last."""
    network = affine.random_network(4, 1)
    counted = {what: affine.trainable(what, network, 1) for what in (affine.AFFINE, affine.ELSEWHERE, affine.ALL)}
    numbers = {what: sum(int(mask.sum()) for mask in masks) for what, masks in counted.items()}
    expected = sum(layer.weight.numel() + layer.bias.numel() for layer in affine.norms(network))
    assert numbers[affine.AFFINE] == numbers[affine.ELSEWHERE] == expected
    assert numbers[affine.ALL] == sum(parameter.numel() for parameter in network.parameters())
    for one, other in zip(counted[affine.AFFINE], counted[affine.ELSEWHERE], strict=True):
        assert not (one & other).any()


def test_the_others_stay_as_they_were() -> None:
    network = affine.random_network(4, 1)
    trained = affine.train_only(affine.AFFINE, network, images("train", 64), 0.01, 1, 1)
    changed = [not torch.equal(*pair) for pair in zip(network.parameters(), trained.parameters(), strict=True)]
    assert changed == [bool(mask.any()) for mask in affine.trainable(affine.AFFINE, network, 1)]
