"""The tiny world: a small artificial language, an exact oracle for its styles, and a shipped model trained on it."""

from pathlib import Path

WORLD_DIR = Path(__file__).parent
MODEL_DIR = WORLD_DIR / "model"
STYLES_FILE = WORLD_DIR / "styles.json"
