"""What all figures share: the colours and the function that writes the file."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.runtime.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREEN, ORANGE, GREY = "#0072b2", "#009e73", "#d55e00", "#999999"  # distinguishable with colour blindness


def printable(text: str) -> str:
    """Return the text with dollar signs escaped: matplotlib would read them as formulas."""
    return text.replace("$", r"\$")


def save_figure(figure: "Figure", path: Path, dpi: int = 110) -> Path:
    """Write the figure atomically as a PNG, close it and return the path."""
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png")
    pyplot.close(figure)
    replace_file(path, content.getvalue())
    return path
