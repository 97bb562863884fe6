"""The process and its host: metrics, health, logs, systemd, sockets."""
