"""The model service: one OpenAI-compatible endpoint before every model."""
