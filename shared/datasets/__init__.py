"""Data set contracts: what a department's file holds, declared once."""
