"""``kmn reach``: who may connect to whom, by policies; what a change of policies would open and close; and whether
packets agree.

Exit codes are those of ``kubectl diff``: 0 for no difference (from before, or between objects and packets), 1 for one,
more for errors.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from kmn import probing
from kmn.apiserver.admission.defaults import set_defaults
from kmn.apiserver.admission.validation import validate
from kmn.cli.manifests import read
from kmn.cli.output import dump
from kmn.cli.policy import judge_of, port_of
from kmn.cli.reachtext import print_changes, print_matrix
from kmn.cli.terminal import console, errors
from kmn.cluster import Cluster
from kmn.emulator.containerports import ServiceIndex, declared_ports, is_sidecar, target_ports
from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.dataplane import DATAPLANE_NAME, NETNS, OBSERVED_RESOURCES
from kmn.k8s.objects import Key, Object, annotation, describe, draft, key_of, labels, name_of, resource_of
from kmn.k8s.resources import DATAPLANES, NAMESPACES, NETWORKPOLICIES, PODS, SERVICES, by_word
from kmn.k8s.selectors import parse_labels
from kmn.policy import legend as legends
from kmn.policy.answers import Answers, Port, Subject, answers, workload_of
from kmn.policy.legend import Legend, legend_of, legend_of_change
from kmn.policy.matrix import Matrix, fold
from kmn.policy.model import network_policy
from kmn.policy.sampling import Trial, Trials, trials
from kmn.policy.verdicts import Judge

__all__ = ["MOST_PROBES", "Query", "show"]

MOST_PROBES = 2000
_TEXTS = ("text", "json", "yaml")
_PICTURES = ("svg", "png", "html")
_DIFFERENT = 1
