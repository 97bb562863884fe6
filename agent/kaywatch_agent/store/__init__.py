"""Makes what was aggregated durable: one SQLite file, one transaction for each tick."""
