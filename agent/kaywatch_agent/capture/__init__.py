"""Records and replays the messages of clients, for bug reports and load tests."""
