"""The engine: reads a journal, asks what is due, does it, writes down what happened."""
