"""`kaywatch report`: one file about everything that happened in a period."""
