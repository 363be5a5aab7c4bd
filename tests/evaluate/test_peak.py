"""The memory that a block of code takes."""

import platform

import pytest
import torch

from qf.evaluate.peak import Peak


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux lets go of its peak")
def test_the_peak_is_of_the_block_alone() -> None:
    def peak(size: int) -> float:
        with Peak(torch.device("cpu")) as found:
            bytearray(size << 20)
        assert found.megabytes is not None
        return found.megabytes

    assert 90 < peak(100) < 130
    assert 40 < peak(50) < 80  # less than before, so it does not come from there
