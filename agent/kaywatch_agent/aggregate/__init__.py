"""Columns of events become buckets, windows and totals. Pure: reads no clock."""
