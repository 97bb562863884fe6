"""What is sent to other monitoring systems."""
