"""Bytes become messages. Sans-IO: no sockets, no clock, and nothing here waits."""
