"""What people tell targets to do: nothing yet. Its figures come from events alone."""
