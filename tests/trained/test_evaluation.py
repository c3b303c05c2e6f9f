"""The 95 % interval of an accuracy. The report is tested in tests/test_evaluate.py, against float64."""

import pytest

from labml_bn.trained.evaluation import wilson_interval


def test_wilson_interval() -> None:
    """Textbook values (Newcombe 1998, table I, method 3), and what must hold at the ends."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(20, 20)[1] == pytest.approx(1.0)
