"""The protocols through which the outside world reaches the engine."""
