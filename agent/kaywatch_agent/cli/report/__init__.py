"""`kaywatch report`: one file that tells what happened."""
