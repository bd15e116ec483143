"""The agent host: signatures, strategies, DSPy programs."""
