"""Checkpoints of a run: its state at one moment, compressed and encrypted, to go back to or fork from."""
