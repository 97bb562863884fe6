"""The HTTP stage: read-only views of what the agent knows, as JSON, text and events."""
