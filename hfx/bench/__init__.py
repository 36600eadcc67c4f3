"""A load generator for any OpenAI-compatible server, and the arithmetic of what it measured."""
