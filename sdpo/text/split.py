"""Which conversations an offline run holds out: an evaluation of the run uses them. Importing this is cheap."""

import hashlib


def is_held_out(conversation: str, share: float) -> bool:
    """Return whether a conversation is held out. Only its id decides, so more data does not change the split."""
    digest = hashlib.sha256(conversation.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share
