"""Measurements of hfx, each beside the machine's limits and the peers; see README.md."""
