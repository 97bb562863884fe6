"""A small company whose services use graphs and models, some of them with a fault."""
