"""The present problems, one sentence each: place, cause, beginning and cost."""
