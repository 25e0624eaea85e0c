"""Every import rule of pyproject.toml holds, and is seen to fail on a planted violation."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PLANTED = [
    ("shared never imports services", "shared/clock.py", "import services.targets.domain"),
    ("services never import each other", "services/notify/domain.py", "import services.registry.domain"),
    ("layers of shared", "shared/storage/work.py", "import shared.messaging.bus"),
    ("layers of shared", "shared/errors.py", "import shared.settings"),
    ("layers of shared", "shared/http/access.py", "import shared.pages"),
    ("layers of the suite", "services/demo/city/model.py", "import services.cli"),
    ("layers of the suite", "services/targets/domain.py", "import services.all_in_one"),
    ("layers of a service", "services/registry/store.py", "import services.registry.work"),
    ("layers of a service", "services/targets/commands.py", "import services.targets.api"),
    ("layers of a service", "services/registry/store.py", "import services.registry.pages"),
    ("domain is pure", "services/matching/domain.py", "import sqlalchemy"),
    ("domain is pure", "services/registry/domain.py", "import shared.events.registry"),
]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on a copy of the tree."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in ("services", "shared"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_all_rules_hold(copy: Path) -> None:
    """The tree as it is keeps every contract."""
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("contract", "file", "line"), PLANTED)
def test_a_planted_violation_is_found(copy: Path, contract: str, file: str, line: str) -> None:
    """One forbidden import breaks exactly the rule that forbids it."""
    with (copy / file).open("a") as source:
        source.write(f"\n{line}\n")
    result = lint(copy)
    assert result.returncode == 1
    assert f"{contract} BROKEN" in result.stdout


def test_a_file_without_a_place_is_found(copy: Path) -> None:
    """Layers are exhaustive: a new module has to take its place."""
    (copy / "shared" / "utils.py").write_text('"""Odds and ends."""\n')
    (copy / "services" / "notify" / "helpers.py").write_text('"""Odds and ends."""\n')
    result = lint(copy)
    assert "layers of shared BROKEN" in result.stdout
    assert "layers of a service BROKEN" in result.stdout
