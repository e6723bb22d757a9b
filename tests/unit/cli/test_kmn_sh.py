"""kmn.sh, in a folder of its own with a made-up environment: nothing is installed here."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

KMN = """#!/bin/sh
echo "in $PWD: $*"
exit 5
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout that is set up."""
    folder = tmp_path / "check out"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("kmn.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    program = folder / ".venv" / "bin" / "kmn"
    program.write_text(KMN)
    program.chmod(0o755)
    content = (folder / "pyproject.toml").read_bytes() + (folder / "kmn.sh").read_bytes()
    (folder / ".venv" / ".kmn-stamp").write_text(hashlib.sha256(content).hexdigest() + "\n")
    return folder


def run(script: Path, *args: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    return subprocess.run(
        [script, *args], cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "PATH": search}
    )


def fake(folder: Path, name: str, body: str) -> Path:
    """A folder for PATH with a program that answers as the test wants."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    return folder


def test_arguments_folder_and_exit_code_are_passed_on(tree: Path, tmp_path: Path) -> None:
    done = run(tree / "kmn.sh", "get", "pods", "a b", cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == (f"in {tmp_path}: get pods a b\n", "", 5)


def test_through_a_symbolic_link(tree: Path, tmp_path: Path) -> None:
    link = tmp_path / "bin"
    link.mkdir()
    (link / "kmn").symlink_to(tree / "kmn.sh")
    assert run(link / "kmn", "list", cwd=tmp_path).stdout == f"in {tmp_path}: list\n"


@pytest.mark.parametrize("how", ["changed project", "half-made environment", "test tools missing"])
def test_set_up_is_repeated_when_needed_and_asks_for_root(tree: Path, tmp_path: Path, how: str) -> None:
    args = ["list"]
    if how == "changed project":
        (tree / "pyproject.toml").write_text("changed")
    elif how == "half-made environment":
        (tree / ".venv" / ".kmn-incomplete").touch()
    else:
        args = ["test"]
    path = fake(tmp_path / "fake", "dpkg-query", "exit 1")
    fake(path, "id", "echo 1000")
    done = run(tree / "kmn.sh", *args, cwd=tmp_path, path=path)
    assert done.returncode == 1
    assert "packages are missing: mininet" in done.stderr
    assert ("chromium" in done.stderr) is (args == ["test"]), "a browser is for tests only"
    assert "sudo" in done.stderr
    assert done.stdout == "", "kmn must not run on a half-made set-up"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
@pytest.mark.parametrize("script", ["kmn.sh", ".ci/run"])
def test_shellcheck(script: str) -> None:
    done = subprocess.run(["shellcheck", ROOT / script], capture_output=True, text=True, check=False)
    assert done.stdout == ""
