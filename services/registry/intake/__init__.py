"""Takes in files: what a department sends is kept sealed, read, checked row by row, and applied in pieces.

Good rows go through the same commands as single calls; each other row is kept with what is wrong with it.
"""
