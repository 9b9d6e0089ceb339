"""The gateway: an OpenAI-compatible proxy that keeps conversations as they happen, and the store it keeps them in."""
