"""What goes on while one looks: `kaywatch top` and `kaywatch tail`."""
