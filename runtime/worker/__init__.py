"""The worker: pulls steps, executes them, reports, acknowledges."""
