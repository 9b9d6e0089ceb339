"""What every picture shares: its colours, and how it is written."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.runtime.run_directory import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREEN, ORANGE, GREY = "#0072b2", "#009e73", "#d55e00", "#999999"  # told apart without colour vision too


def save_figure(figure: "Figure", path: Path, dpi: int = 110) -> Path:
    """Write the figure as a PNG, whole or not at all, close it and return the path."""
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png")
    pyplot.close(figure)
    replace_file(path, content.getvalue())
    return path
