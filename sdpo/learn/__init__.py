"""Learning from what was said, as stages that can be resumed: from conversations to a decision about a new version."""
