"""The model service: one OpenAI-compatible address in front of local and remote models."""
