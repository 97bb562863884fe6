"""The HTTP server: JSON, Prometheus metrics, server-sent events and pages."""
