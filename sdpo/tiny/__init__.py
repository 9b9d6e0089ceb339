"""The tiny world: an invented language, an exact oracle for its style, and a shipped model that speaks it."""

from pathlib import Path

WORLD_DIR = Path(__file__).parent
MODEL_DIR = WORLD_DIR / "model"
STYLES_FILE = WORLD_DIR / "styles.json"
