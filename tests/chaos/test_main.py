"""The embedded suite is killed -9 again and again with work in flight, and the story still comes true."""

from pathlib import Path

from rich.console import Console

from tests.chaos.main import came_true, run


def test_the_story_comes_true_through_ten_deaths(tmp_path: Path) -> None:
    """Nothing lost, nothing doubled, nothing after an enrolment; every death had work in flight."""
    figures = run(tmp_path / "suite", kills=10, seed=7, console=Console())
    print(figures)
    assert figures["registered"] > 400
    assert came_true(figures, kills=10)
