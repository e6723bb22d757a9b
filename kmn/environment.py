"""The environment of containers as the kubelet left it for programs that users run in pods: one file a pod.

A manifest alone must not be able to steer a program of the machine that a user runs as root, so variables that loaders,
shells and interpreters take orders from are withheld (:func:`steers`). The files hold them, as the container has them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["read", "steers", "write"]

_DEFAULT, _CONTAINERS = "default", "containers"

# What is no plain name (bash takes functions from such), and what the loader, the C library, shells, interpreters,
# well-known tools and kmn itself take orders from: programs to run, files to load or to believe.
_PLAIN = re.compile(r"[-._A-Za-z0-9]+")
_STEERING = re.compile(
    r"""PATH|HOME|SHELL|IFS|ENV|CDPATH|GLOBIGNORE|FIGNORE|SHELLOPTS|BASHOPTS|BASH_.*|PS[0-4]|PROMPT_.*|INPUTRC|HIST.*
    |LD_.*|GLIBC_.*|GCONV_PATH|GETCONF_DIR|LOCPATH|NLSPATH|MALLOC_.*|HOSTALIASES|LOCALDOMAIN|RES_OPTIONS|TMPDIR|TZDIR
    |PYTHON.*|PERL.*|RUBY.*|GEM_.*|BUNDLE_.*|NODE_.*|NPM_.*|PHP.*|LUA_.*|TCLLIBPATH|CLASSPATH|.*JAVA.*OPTIONS|JAVA_.*
    |JVM_.*|DOTNET_.*|COMPLUS_.*|CORECLR_.*|GO(?:DEBUG|FLAGS|ROOT|PATH)|RUST.*|AWK.*|MAKE.*|CC|CXX|EDITOR|VISUAL|BROWSER
    |(?:GIT|SSH|GPG|SUDO|SVN|OPENSSL|CURL|LESS|TERM|XDG|SYSTEMD|DBUS|GTK|QT|OVS|MN|KMN|TMUX|DPDK)(?:_.*)?|SSLKEYLOGFILE
    |WGETRC|LESSOPEN|LESSCLOSE|(?:.*_)?PAGER|MANPATH|MANOPT|TERMINFO.*|TERMCAP|RSYNC_.*|TAR_OPTIONS|GREP_.*|IPERF_.*
    |NETRC|KUBECONFIG|VIM.*|EXINIT|FCEDIT|ZDOTDIR|FPATH""",
    re.VERBOSE,
)


def steers(name: str) -> bool:
    """Whether programs take orders from a variable, so that only who runs them may set it."""
    return not _PLAIN.fullmatch(name) or _STEERING.fullmatch(name) is not None


def write(file: Path, default: str, containers: Mapping[str, Mapping[str, str]]) -> None:
    """Leave what the containers of a pod have, by their names, for root alone; ``default`` is the one meant by none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as text:
        json.dump({_DEFAULT: default, _CONTAINERS: containers}, text)
    new.rename(file)


def read(file: Path, container: str | None = None) -> dict[str, str]:
    """The variables of a container (None: the default one); none while it has not started."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    variables: dict[str, str] = found[_CONTAINERS].get(container or found[_DEFAULT], {})
    return variables
