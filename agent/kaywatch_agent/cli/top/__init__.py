"""Live views in the terminal: `kaywatch top` and `kaywatch tail`."""
