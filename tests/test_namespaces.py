"""The names that scripts written for torch use beside the ops."""

import math

import numpy as np
import pytest

import tapegrad as tg


def test_linalg_and_special() -> None:
    a = tg.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=tg.float64)
    np.testing.assert_allclose((tg.linalg.inv(a) @ a).numpy(), np.eye(2), atol=1e-12)
    assert all(hasattr(tg.linalg, name) for name in tg.linalg.__all__)
    assert tg.special.expit(tg.tensor(0.0)).item() == 0.5 and "gammaln" in dir(tg.special)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tg.special.nothing


def test_every_public_name_exists() -> None:
    assert [name for name in tg.__all__ if not hasattr(tg, name)] == []


def test_constants_and_limits() -> None:
    assert (tg.pi, tg.e, tg.inf) == (math.pi, math.e, math.inf) and math.isnan(tg.nan) and tg.newaxis is None
    assert tg.finfo(tg.float32).eps == np.finfo(np.float32).eps and tg.finfo().bits == 32
    assert tg.iinfo(tg.uint8).max == 255 and tg.iinfo(tg.int64).min == -(2**63)
    with pytest.raises(TypeError, match="floating point"):
        tg.finfo(tg.int32)
    with pytest.raises(TypeError, match="integer"):
        tg.iinfo(tg.float32)


def test_promotion_of_dtypes() -> None:
    assert tg.promote_types(tg.uint8, tg.int32) is tg.int32 and tg.promote_types(tg.int64, tg.float32) is tg.float32
    assert tg.can_cast(tg.float64, tg.float32) and not tg.can_cast(tg.float32, tg.int64)
    assert not tg.can_cast(tg.int32, tg.bool)


def test_memory_is_counted_and_given_back() -> None:
    before = tg.memory_stats()["in_use"]
    x = tg.zeros(1 << 20)
    assert tg.memory_stats()["in_use"] - before >= 4 << 20
    del x
    assert tg.memory_stats()["in_use"] == before and tg.memory_stats()["peak"] >= before + (4 << 20)
    tg.empty_cache()
    assert tg.numel(tg.zeros(2, 3)) == 6


def test_the_number_of_threads_is_what_was_set() -> None:
    before = tg.get_num_threads()
    try:
        tg.set_num_threads(2)
        assert tg.get_num_threads() == 2
        with pytest.raises(RuntimeError, match="positive"):
            tg.set_num_threads(0)
        assert tg.get_num_threads() == 2
    finally:
        tg.set_num_threads(before)
