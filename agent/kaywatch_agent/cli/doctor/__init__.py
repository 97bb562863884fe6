"""Looks at an agent and what is around it, changes nothing, and says how to mend it."""
