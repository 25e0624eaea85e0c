"""The demo: a sample city with known truth, the story it plays over HTTP, and the check of that story.

`city` makes units, people and what happens to them from a seed. `story` drives the running suite through
about 75 simulated days, from outside. `check` judges what the carrier received by the city's records alone;
it imports nothing of the suite, so that an error of the suite cannot hide in it.
"""
