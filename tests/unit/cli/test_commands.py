"""The command line as a program: help, wrong words, errors in one line, exit codes. No cluster, no root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kmn
from kmn.cli.main import main
from kmn.cli.problems import describe
from kmn.errors import UserError
from kmn.k8s.errors import NotFound

COMMANDS = (
    "up", "down", "clean", "list", "apply", "delete", "get", "exec", "cli", "kubeconfig", "ovs", "policy",
    "ingress", "reach", "demo", "test")  # fmt: skip


@pytest.fixture(autouse=True)
def no_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmn.naming.RUN_ROOT", tmp_path / "run")
    monkeypatch.setattr("os.geteuid", lambda: 0)


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f" {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: kmn" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"kmn {kmn.__version__}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("get pods", "kmn: no cluster is running"),
        ("exec web -- true", "kmn: no cluster is running"),
        ("kubeconfig --name demo", "kmn: cluster demo: not running"),
        ("up missing.yaml", "missing.yaml"),
        ("up -f missing.yaml", "missing.yaml"),
        ("apply", "kmn: no manifest given"),
        ("get pods -o xml", "kmn: -o xml: not known"),
        ("policy log -o xml", "kmn: -o xml: not known"),
        ("policy counters -o xml", "kmn: -o xml: not known"),
        ("policy log", "kmn: no cluster is running"),
        ("ingress log -o xml", "kmn: -o xml: not known"),
        ("ingress log --status 6xx", "kmn: --status 6xx: not understood"),
        ("ingress counters -o xml", "kmn: -o xml: not known"),
        ("ingress log", "kmn: no cluster is running"),
        ("ingress counters", "kmn: no cluster is running"),
        ("policy counters", "kmn: no cluster is running"),
        ("get pdos", 'kmn: the server has no resource type "pdos"'),
        ("up --name Not_A_Label", "Not_A_Label"),
    ],
)
def test_errors_are_a_line_and_an_exit_code(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ingress explain http://shop.example/", "kmn: no cluster is running"),
        ("ingress explain ftp://shop.example/", "kmn: ftp://shop.example/: not understood"),
        ("ingress explain shop.example -o xml", "kmn: -o xml: not known"),
    ],
)
def test_where_exit_codes_have_meanings_errors_have_their_own(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--colour"]) == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["up", "down demo", "clean", "list", "get pods", "cli", "exec web -- true"])
def test_not_root(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(command.split()) == 1
    err = capsys.readouterr().err
    assert "needs root" in err
    assert "sudo" in err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMN_DEBUG", "1")
    with pytest.raises(UserError):
        main(["get", "pods"])


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (UserError("a: b", "do c"), "a: b", "do c"),
        (NotFound("pods", "web"), 'pods "web" not found', ""),
        (FileNotFoundError(2, "No such file", "x.yaml"), "x.yaml: no such file", ""),
        (KeyError("x"), "KeyError: 'x'", "this is a bug in kmn: KMN_DEBUG=1 shows where it came from"),
    ],
)
def test_what_is_told_about_an_error(error: Exception, message: str, hint: str) -> None:
    assert describe(error) == (message, hint)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from kmn.cli.main import main; main(['--version']);"
        "heavy = {'aiohttp', 'mininet', 'os_ken', 'urllib3', 'yaml', 'cryptography', 'jsonschema'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_kmn_costs_nothing_and_knows_cluster() -> None:
    code = "import sys, kmn; print('kmn.cluster' in sys.modules); from kmn import Cluster; print(Cluster.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "kmn.cluster"]
    with pytest.raises(AttributeError, match="Clutser"):
        _ = kmn.Clutser


def test_errors_about_fields_name_the_cluster_file() -> None:
    from kmn.front import _where

    assert _where("demo", "", "spec.a: b") == "cluster demo: spec.a: b"
    assert _where("demo", os.path.abspath("x.yaml"), "spec.a: b\nspec.c: d") == "x.yaml: spec.a: b\nx.yaml: spec.c: d"
    assert _where("demo", "/x.yaml", "broken") == "cluster demo: broken"


def test_exec_ends_as_a_shell_does(tmp_path: Path) -> None:
    from kmn.cli.execute import _problem

    (tmp_path / "data").write_text("no program")
    assert _problem("sh") is None
    assert _problem("no-such-program") == (127, "not found")
    assert _problem(str(tmp_path / "data")) == (126, "not executable")
    assert _problem(str(tmp_path)) == (126, "not executable")
