"""Planning: analysis of a Workflow's graph, its picture, its optimiser, and goals taken apart."""
