"""`seedbed run`: the operator's decisions, the engine and the workers in one process, no cluster."""
