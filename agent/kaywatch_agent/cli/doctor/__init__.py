"""`kaywatch doctor`: checks of the agent and its environment, each with a fix."""
