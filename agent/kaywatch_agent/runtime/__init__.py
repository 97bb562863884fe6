"""The process and its host: telemetry, health, logs, systemd, sockets."""
