"""Records what clients send to an agent, and replays it: bug reports and load tests."""
