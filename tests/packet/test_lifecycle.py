"""Starting and ending clusters through the ``kmn`` command, and by every way in which that can go wrong."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmn import front
from kmn.emulator.purge import clusters, purge
from kmn.naming import NETNS_DIR, RUN_ROOT, netns_prefix

pytestmark = pytest.mark.packet

NAME = f"hglife{os.getpid()}"

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
  - name: c
    image: example.com/c:1
    env: [{name: WHO, value: client of $(KUBERNETES_SERVICE_HOST)}, {name: BASH_ENV, value: /etc/profile}]
"""
UNSCHEDULABLE = POD.replace("spec:\n", "spec:\n  nodeSelector: {disk: fast}\n")


def kmn(*args: str, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kmn.cli", *args],
        input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kmn.cli", *args],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def namespaces() -> list[str]:
    return [name for name in os.listdir(NETNS_DIR) if name.startswith(netns_prefix(NAME))] if NETNS_DIR.is_dir() else []


def pid_of_cluster() -> int:
    return next((state.pid for state in front.running() if state.name == NAME), 0)


def assert_nothing_is_left() -> None:
    assert NAME not in clusters()
    assert not [path for path in RUN_ROOT.iterdir() if path.name.startswith(NAME)]


@pytest.fixture(autouse=True)
def cleaned() -> Iterator[None]:
    yield
    pid = pid_of_cluster()
    if pid:
        os.kill(pid, signal.SIGKILL)
    purge(NAME)
    (RUN_ROOT / f"{NAME}.lock").unlink(missing_ok=True)


@pytest.fixture
def pod_file(tmp_path: Path) -> str:
    file = tmp_path / "pod.yaml"
    file.write_text(POD)
    return str(file)


def test_a_detached_cluster_stays_until_down(pod_file: str) -> None:
    up = kmn("up", "--name", NAME, "-f", pod_file, "--detach")
    assert up.returncode == 0, up.stderr
    listed = json.loads(kmn("list", "-o", "json").stdout)
    assert [(c["state"], c["detached"]) for c in listed if c["name"] == NAME] == [("running", True)]
    config = kmn("kubeconfig", "--name", NAME).stdout.strip()
    assert os.stat(config).st_mode & 0o777 == 0o600
    again = kmn("up", "--name", NAME)
    assert again.returncode == 1
    assert "the name is in use" in again.stderr
    assert kmn("clean", NAME).returncode == 1, "a running cluster is not cleaned away"
    assert pid_of_cluster()
    down = kmn("down", NAME)
    assert down.returncode == 0, down.stderr
    assert_nothing_is_left()
    assert kmn("down", NAME).returncode == 1


def test_the_commands_of_a_running_cluster(pod_file: str) -> None:
    assert kmn("up", "--name", NAME, "-f", pod_file, "--detach").returncode == 0
    on = ("--name", NAME)

    def out(*args: str, stdin: str | None = None) -> str:
        done = kmn(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert out("apply", *on, "-f", pod_file) == "pod/client unchanged\n"
    changed = POD.replace("{name: client}", "{name: client, labels: {a: b}}")
    assert out("apply", *on, "-f", "-", stdin=changed) == "pod/client configured\n"
    assert out("get", *on, "pods", "-l", "a=b", "-o", "name") == "pod/client\n"
    assert json.loads(out("get", *on, "po/client", "-o", "json"))["metadata"]["labels"] == {"a": "b"}
    table = out("get", *on, "pods", "-A").splitlines()
    assert table[0].split()[:4] == ["NAMESPACE", "NAME", "READY", "STATUS"]
    assert ["default", "client", "1/1", "Running"] in [line.split()[:4] for line in table]
    assert out("exec", *on, "client", "--", "hostname") == "client\n"
    assert out("exec", *on, "-i", "client", "--", "cat", stdin="hello") == "hello"
    assert out("exec", *on, "client", "--", "cat", stdin="hello") == "", "standard input only with -i"
    assert out("exec", *on, "-t", "client", "-c", "c", "--", "tty").startswith("/dev/pts/")
    assert kmn("exec", *on, "client", "--", "sh", "-c", "exit 7").returncode == 7
    assert "10.244." in out("exec", *on, "client", "--", "cat", "/etc/hosts")
    assert "172.18.0.2" in out("exec", *on, "node/n1", "--", "ip", "-br", "addr")
    in_pod = kmn("exec", *on, "client", "--", "env")
    assert {"WHO=client of 10.96.0.1", "KUBERNETES_SERVICE_HOST=10.96.0.1"} <= set(in_pod.stdout.splitlines())
    assert "BASH_ENV" not in in_pod.stdout
    assert in_pod.stderr == "kmn: not set, as they would steer programs of this machine: BASH_ENV\n"
    assert "KUBERNETES_SERVICE_HOST" not in out("exec", *on, "node/n1", "--", "env")
    missing = kmn("exec", *on, "clientt", "--", "true")
    assert missing.returncode == 1
    assert "did you mean client?" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert "cookie=" in out("ovs", *on, "n1", "--", "ofctl", "dump-flows", "br0")
    assert "br0" in out("ovs", *on, "n1", "vsctl", "list-br")
    shown = out("cli", *on, "-c", "nodes", "-c", "client hostname", "-c", "n1 ping -c1 -W2 client")
    assert "client" in shown
    assert "1 received" in shown
    assert out("delete", *on, "pod/client") == 'pod "client" deleted\n'


def test_up_in_the_foreground_reads_the_cli_and_takes_the_cluster_down(pod_file: str) -> None:
    up = kmn("up", "--name", NAME, "-f", pod_file, stdin="client hostname\nexit\n")
    assert up.returncode == 0, up.stderr
    assert "client" in up.stdout.splitlines()
    assert_nothing_is_left()


def test_what_is_not_ready_is_said_and_stays_for_inspection(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(UNSCHEDULABLE)
    up = kmn("up", "--name", NAME, "-f", str(file), "--detach", "--timeout", "8")
    assert up.returncode == 1
    assert "pod default/client" in up.stderr
    assert "Unschedulable" in up.stderr
    assert f"kmn down {NAME}" in up.stderr
    assert pid_of_cluster()


@pytest.mark.parametrize("text", ["kind: Nothing\n", POD + "---\n" + POD.replace("spec:", "spce:"), "a: [\n"])
def test_a_bad_manifest_leaves_nothing_behind(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    up = kmn("up", "--name", NAME, "-f", str(file), "--detach")
    assert up.returncode == 1
    assert "Traceback" not in up.stderr
    assert_nothing_is_left()


@pytest.mark.parametrize("moment", [0.0, 0.15, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_any_moment_of_up_nothing_is_left(pod_file: str, moment: float, number: signal.Signals) -> None:
    up = start("up", "--name", NAME, "-f", pod_file)
    wait_for(lambda: (RUN_ROOT / f"{NAME}.lock").exists(), "the start")
    time.sleep(moment)  # not a synchronisation: the moments are the test's cases
    up.send_signal(number)
    _, code = up.communicate(timeout=30), up.returncode
    assert code in (128 + number, -number)
    assert_nothing_is_left()


def test_a_killed_front_takes_its_cluster_along(pod_file: str) -> None:
    up = start("up", "--name", NAME, "-f", pod_file)
    wait_for(lambda: len(namespaces()) > 3, "the cluster's namespaces")
    up.kill()
    up.communicate()
    wait_for(lambda: not pid_of_cluster() and NAME not in clusters(), "the end of the cluster")


@pytest.mark.parametrize("command", ["down", "clean"])
def test_a_killed_cluster_process_is_cleaned_up(pod_file: str, command: str) -> None:
    assert kmn("up", "--name", NAME, "-f", pod_file, "--detach").returncode == 0
    os.kill(pid_of_cluster(), signal.SIGKILL)
    wait_for(lambda: not pid_of_cluster(), "the end of the process")
    assert namespaces()
    listed = json.loads(kmn("list", "-o", "json").stdout)
    assert [c["state"] for c in listed if c["name"] == NAME] == ["crashed"]
    assert kmn(command, NAME).returncode == 0
    assert_nothing_is_left()


def test_up_removes_what_a_crashed_run_left(pod_file: str) -> None:
    assert kmn("up", "--name", NAME, "--detach").returncode == 0
    os.kill(pid_of_cluster(), signal.SIGKILL)
    wait_for(lambda: not pid_of_cluster(), "the end of the process")
    up = kmn("up", "--name", NAME, "-f", pod_file, "--detach")
    assert up.returncode == 0, up.stderr
    assert kmn("down", NAME).returncode == 0
    assert_nothing_is_left()


def test_a_terminal_gets_the_prompt_and_interrupts_reach_the_pod(pod_file: str) -> None:
    master, slave = pty.openpty()
    up = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "kmn.cli", "up", "--name", NAME, "-f", pod_file],
        stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    seen = ""

    def read_until(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 30
        while text not in seen:
            assert time.monotonic() < deadline, seen
            seen += os.read(master, 4096).decode(errors="replace")

    read_until(f"{NAME}> ")
    os.write(master, b"client ping -i 0.1 127.0.0.1\n")
    read_until("bytes from")
    os.write(master, b"\x03")
    read_until("packets transmitted")
    seen = ""
    read_until(f"{NAME}> ")  # what is typed before goes to the pod
    os.write(master, b"exit\n")
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while os.read(master, 4096):
            pass
    os.close(master)
    assert up.wait(30) == 0
    assert_nothing_is_left()
