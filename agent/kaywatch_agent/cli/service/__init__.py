"""The agent as a systemd service: its units, and how they get there."""
