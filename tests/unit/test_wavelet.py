"""The wavelet across frames is exact for every length."""

from __future__ import annotations

import numpy as np
import pytest

from raypacs.codec import wavelet


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 17])
def test_forward_and_inverse_are_exact(count: int) -> None:
    frames = np.random.default_rng(count).integers(-4096, 4096, (count, 5, 6)).astype(np.int32)
    low, high = wavelet.forward(frames)
    assert (len(low), len(high)) == (-(-count // 2), count // 2)
    assert np.array_equal(wavelet.inverse(low, high), frames)


def test_the_lifting_is_that_of_the_standard() -> None:
    """Written out by hand from ISO/IEC 15444-1 F.3.8.2.1 for six samples."""
    x = [10, 13, 25, 26, 29, 21]
    d = [13 - (10 + 25) // 2, 26 - (25 + 29) // 2, 21 - (29 + 29) // 2]
    s = [
        10 + (d[0] + d[0] + 2) // 4,
        25 + (d[0] + d[1] + 2) // 4,
        29 + (d[1] + d[2] + 2) // 4,
    ]
    low, high = wavelet.forward(np.array(x, np.int32).reshape(6, 1, 1))
    assert low.reshape(-1).tolist() == s
    assert high.reshape(-1).tolist() == d


def test_a_smooth_volume_has_almost_empty_high_frames() -> None:
    frames = np.arange(16, dtype=np.int32)[:, None, None] * np.ones((16, 4, 4), np.int32) * 10
    low, high = wavelet.forward(frames)
    assert np.abs(high[:-1]).max() == 0
    assert np.abs(low[1:-1] - frames[2:-2:2]).max() == 0
