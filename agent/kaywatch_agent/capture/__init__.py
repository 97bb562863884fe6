"""What came in, written to a file and played again: bug reports and load tests."""
