"""The OpenAI-compatible HTTP server; `python -m hfx.serve` starts it."""
