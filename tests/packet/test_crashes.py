"""Clusters whose processes are killed or stopped at any moment: ``down`` and ``clean`` leave nothing of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faultlab import TOPOLOGIES, kmn, pid_of, pids, traces, wait_for

from kmn import Cluster
from kmn.emulator.purge import purge
from kmn.naming import NETNS_DIR, RUN_ROOT, Paths, netns_prefix

pytestmark = pytest.mark.packet

NAME = f"hjcrash{os.getpid()}"


@pytest.fixture(autouse=True)
def cleaned() -> Iterator[None]:
    yield
    purge(NAME)
    (RUN_ROOT / f"{NAME}.lock").unlink(missing_ok=True)


def start_up() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kmn.cli", "up", str(TOPOLOGIES / "demo.yaml"), "--name", NAME, "--detach"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def namespaces(kind: str) -> list[str]:
    return list(map(str, NETNS_DIR.glob(f"{netns_prefix(NAME)}{kind}*")))


# Where `up` stands, by what is there to be seen.
MOMENTS: dict[str, Callable[[], object]] = {
    "started": lambda: (RUN_ROOT / f"{NAME}.lock").exists(),
    "process": lambda: pid_of(NAME, "daemon"),
    "API": lambda: Paths(NAME).kubeconfig.exists(),
    "fabric": lambda: namespaces("fabric"),
    "nodes": lambda: namespaces("node"),
    "switches": lambda: pid_of(NAME, "ovs-vswitchd"),
    "pods": lambda: namespaces("pod"),
    "many pods": lambda: len(namespaces("pod")) > 10,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_everything_is_killed_in_the_middle_of_up(moment: str) -> None:
    up = start_up()
    wait_for(MOMENTS[moment], moment)
    kill(up.pid)
    while living := pids(NAME):
        for pid in living:
            kill(pid)
    up.communicate(timeout=30)
    command = "down" if len(moment) % 2 else "clean"
    done = kmn(command, NAME)
    assert done.returncode == 0, done.stderr
    assert traces(NAME) == []


def test_a_cluster_whose_command_is_killed_leaves_nothing_when_it_is_gone() -> None:
    up = subprocess.Popen(
        [sys.executable, "-m", "kmn.cli", "up", str(TOPOLOGIES / "demo.yaml"), "--name", NAME],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for(MOMENTS["pods"], "pods")
    kill(up.pid)
    up.communicate()
    wait_for(lambda: not traces(NAME), "the end of the cluster")


@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if moment != "started"])
def test_the_process_of_the_cluster_is_killed_in_the_middle_of_up(moment: str) -> None:
    """The command sees it, says it, and cleans up by itself."""
    up = start_up()
    wait_for(MOMENTS[moment], moment)
    kill(wait_for(lambda: pid_of(NAME, "daemon"), "its process"))
    output, _ = up.communicate(timeout=60)
    assert up.returncode == 1, output
    assert "Traceback" not in output
    said = [line for line in output.splitlines() if line.startswith("kmn: ")]
    assert said == [f"kmn: cluster {NAME}: its process was killed by signal 9"]
    assert traces(NAME) == []


@pytest.mark.parametrize("command", ["down", "clean"])
def test_all_processes_of_a_running_cluster_are_killed(command: str) -> None:
    with_cluster()
    others = list(pids(NAME))
    assert len(others) >= 4 + 2 * 4  # the cluster's own, and the switches of three nodes and the edge
    for pid in others:
        kill(pid)
    wait_for(lambda: not pids(NAME), "the end of all processes")
    assert traces(NAME)
    done = kmn(command, NAME)
    assert done.returncode == 0, done.stderr
    assert traces(NAME) == []


def test_a_stopped_process_is_taken_down_all_the_same() -> None:
    with_cluster()
    os.kill(pid_of(NAME, "daemon"), signal.SIGSTOP)
    os.kill(pid_of(NAME, "runtime"), signal.SIGSTOP)
    done = kmn("down", NAME)
    assert done.returncode == 0, done.stderr
    assert traces(NAME) == []


def test_a_program_in_a_pod_does_not_hold_the_cluster() -> None:
    with_cluster()
    inside = subprocess.Popen(
        [sys.executable, "-m", "kmn.cli", "exec", "--name", NAME, "load", "--", "sleep", "600"],
        stdin=subprocess.DEVNULL,
    )
    wait_for(lambda: "sleep" in pids(NAME).values(), "the program")
    assert kmn("down", NAME).returncode == 0
    assert inside.wait(10) == -signal.SIGKILL
    assert traces(NAME) == []


def with_cluster() -> None:
    up = kmn("up", str(TOPOLOGIES / "demo.yaml"), "--name", NAME, "--detach")
    assert up.returncode == 0, up.stderr


# --- again and again --------------------------------------------------------------------------------------------------


class Growth:
    """What this process and the machine have, of things that a run could leave a little more of each time."""

    def __init__(self) -> None:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        self.mounts = len([line for line in lines if NAME in line or "kmn." not in line])  # not those of other clusters
        self.own_namespaces = len(list(NETNS_DIR.glob(f"{netns_prefix(NAME)}*")))
        self.links = len(list(Path("/etc/netns").glob(f"{netns_prefix(NAME)}*")))
        self.files = len(list(RUN_ROOT.glob(f"{NAME}*")))
        self.processes = len(pids(NAME))
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.threads = len(os.listdir("/proc/self/task"))
        self.kernel_namespaces = netns_count()


def netns_count() -> int:
    """Network namespaces that the kernel keeps, named or not: one object of the slab cache each."""
    for line in Path("/proc/slabinfo").read_text().splitlines():
        if line.startswith("net_namespace "):
            return int(line.split()[1])
    return 0


def run_once() -> None:
    with Cluster(TOPOLOGIES / "demo.yaml", name=NAME) as cluster:
        cluster.wait_ready(120)
        assert cluster.pod("load").run(["true"]).returncode == 0
        assert cluster.net.get("load").cmd("true") == ""


def test_nothing_grows() -> None:
    run_once()
    before = Growth()
    for _ in range(2):
        run_once()
    after = Growth()
    after.kernel_namespaces = before.kernel_namespaces  # other clusters may come and go
    assert vars(after) == vars(before)


@pytest.mark.slow
def test_nothing_grows_in_ten_runs() -> None:
    """On a machine that runs nothing else: it counts the namespaces of the kernel, with a name or without."""
    run_once()
    before = Growth()
    for _ in range(10):
        run_once()
    wait_for(lambda: netns_count() <= before.kernel_namespaces + 3, "the kernel's namespaces")
    after = Growth()
    after.kernel_namespaces = before.kernel_namespaces
    assert vars(after) == vars(before)
