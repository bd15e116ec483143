"""Prompts that repeat: what they have in common, and how to send or pay it once."""
