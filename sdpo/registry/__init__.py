"""The registry: versions of a model that learned from its users, and which of them is live."""
