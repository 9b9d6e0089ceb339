"""Real language with an exact reader: prompts, styles that a rule can check, users and an oracle that need no model.

Where the tiny world invents a language, this room reads the answers of any real model.
"""

from pathlib import Path

ENGLISH_DIR = Path(__file__).parent
PROMPTS_FILE = ENGLISH_DIR / "prompts.jsonl"
WORDINGS_FILE = ENGLISH_DIR / "wordings.json"
FOLLOW_UPS_FILE = ENGLISH_DIR / "follow_ups.jsonl"
PROBES_FILE = ENGLISH_DIR / "probes.json"
LABELLED_FILE = ENGLISH_DIR / "labelled_pairs.jsonl"
