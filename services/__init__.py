"""The four services, what runs them together, and the command line."""
