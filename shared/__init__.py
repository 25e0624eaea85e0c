"""Plumbing that an unrelated company could use unchanged; only the events know what this suite is about."""
