"""`kaywatch demo`: a real PocketFlow application, watched by a real agent."""
