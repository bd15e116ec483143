"""Structured logs, metrics and trace context."""
