"""Alerts on a virtual clock: what rules would do, and what would be delivered."""
