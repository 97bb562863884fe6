"""From recorded events to acknowledged batches."""
