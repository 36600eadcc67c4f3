"""Who holds which block of the key-value pool, and which prefixes are worth keeping.
"""
