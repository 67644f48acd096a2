"""Scripts that ask for CUDA are told that there is none."""

import pytest

import tapegrad as tg


def test_there_is_no_cuda():
    assert tg.cuda.is_available() is False
    assert tg.cuda.device_count() == 0
    tg.cuda.manual_seed_all(3)
    tg.cuda.manual_seed(3)
    tg.cuda.empty_cache()
    with pytest.raises(RuntimeError, match="CPU"):
        tg.cuda.synchronize()
