"""Agents: DSPy programs built from an Agent's spec, asked through the model service."""
