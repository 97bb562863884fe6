"""Access control and limits of the HTTP server."""
