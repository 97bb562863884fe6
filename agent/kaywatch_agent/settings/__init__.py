"""From a TOML table to typed sections."""
