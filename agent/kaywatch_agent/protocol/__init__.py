"""Decode bytes into messages. Sans-IO: no sockets, no clock, no waiting."""
