"""What runs beside the operator: engine, workers, agents, model service, flags, API."""
