"""The layer sweep as a picture."""

from pathlib import Path

import pytest

from qf.errors import QFError
from qf.method.layers import LayerScore
from qf.plot import bar, layers_png

SCORES = [LayerScore(i, i / 10, i / 20, 1.0, 0.5, 0.1) for i in range(6)]


@pytest.mark.parametrize(
    ("share", "drawn"),
    [
        (0, "    "),
        (1 / 32, "▏   "),
        (0.4, "█▋  "),
        (0.5, "██  "),
        (1, "████"),
        (-1, "    "),
        (2, "████"),
    ],
)
def test_bars(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn


@pytest.mark.parametrize("count", [1, 6, 28, 80])
def test_a_sweep_becomes_a_png(tmp_path: Path, count: int) -> None:
    from PIL import Image

    scores = [LayerScore(i, 0.5, 0.5, 1.0, 0.5, 0.1) for i in range(count)]
    layers_png(scores, 0, tmp_path / "one.png", "Where to teach: me")
    layers_png(scores, count - 1, tmp_path / "other.png", "Where to teach: me")
    with Image.open(tmp_path / "one.png") as image:
        assert image.format == "PNG" and image.width > 600 and image.height > 300
    if count > 1:
        assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_a_name_without_an_ending_is_a_png_as_well(tmp_path: Path) -> None:
    layers_png(SCORES, 5, tmp_path / "plot", "Where to teach: me")
    assert [path.name for path in tmp_path.iterdir()] == ["plot"]
    assert (tmp_path / "plot").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["missing/plot.png", ".", "plot.mp3"])
def test_a_plot_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(QFError, match=r"cannot be written .*choose another --plot\.$"):
        layers_png(SCORES, 5, tmp_path / name, "Where to teach: me")
    assert list(tmp_path.iterdir()) == []
