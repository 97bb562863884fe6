"""Makes aggregates durable: one SQLite file, one transaction per tick."""
