"""Elastic scaling: when to add or remove replicas, and moving weights to them.

Nothing here yet: the policy and the device-to-device transfer arrive with their own capability.
"""
