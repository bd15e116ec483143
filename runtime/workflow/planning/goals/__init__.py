"""Goals taken apart: a tree of tasks, the planners that grow it, and how it is shown."""
