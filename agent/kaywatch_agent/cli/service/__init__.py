"""The agent as a systemd service: its units and their installation."""
