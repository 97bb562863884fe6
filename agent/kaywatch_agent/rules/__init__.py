"""Rules and alerts: evaluated, stored, and described for notifications."""
