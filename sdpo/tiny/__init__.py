"""The tiny world: a small artificial language, an exact oracle for its styles, and a shipped model trained on it."""

from pathlib import Path

WORLD_DIR = Path(__file__).parent
MODEL_DIR = WORLD_DIR / "model"
STYLES_FILE = WORLD_DIR / "styles.json"

# The settings that keep the tiny world's loop apart from that of real models: its versions and its conversations.
LOOP = {"registry": "runs/tiny-registry", "store_url": "sqlite:///runs/tiny-store.sqlite"}
