"""The kaywatch agent: one daemon per host that aggregates what the clients push."""
