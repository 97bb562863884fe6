"""Decides which alerts there are: rules, their states, and what is said of them."""
