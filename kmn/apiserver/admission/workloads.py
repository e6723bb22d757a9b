"""Rules for workloads: what they have in common (selector and template) and what each has of its own.

After ``pkg/apis/apps/validation``, ``pkg/apis/batch/validation`` and, for ReplicationControllers, ``core``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kmn.apiserver.admission.pods import check_pod_spec
from kmn.apiserver.admission.rules import Errors
from kmn.k8s.objects import Object
from kmn.k8s.selectors import selector_of_object

__all__ = [
    "check_cronjob",
    "check_daemonset",
    "check_deployment",
    "check_job",
    "check_replicaset",
    "check_replicationcontroller",
    "check_statefulset",
]

Fields = dict[str, Any]

_PERCENT = re.compile(r"[0-9]+%")
_STATEFULSET_MUTABLE = (
    "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "minReadySeconds",
    "persistentVolumeClaimRetentionPolicy",
)  # fmt: skip


def check_deployment(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    _selector_and_template(errors, spec, old)
    _not_negative(
        errors, "spec", spec, "replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"
    )
    if spec["progressDeadlineSeconds"] <= spec.get("minReadySeconds", 0):
        errors.invalid(
            "spec.progressDeadlineSeconds", spec["progressDeadlineSeconds"], "must be more than minReadySeconds"
        )
    strategy = spec["strategy"]
    if errors.choice("spec.strategy.type", strategy["type"], ("Recreate", "RollingUpdate")):
        if strategy["type"] == "Recreate" and strategy.get("rollingUpdate") is not None:
            errors.forbidden("spec.strategy.rollingUpdate", "may not be given with type Recreate: remove it")
        elif strategy["type"] == "RollingUpdate":
            _rolling_update(errors, "spec.strategy.rollingUpdate", strategy["rollingUpdate"])


def check_replicaset(errors: Errors, new: Object, old: Object | None) -> None:
    _selector_and_template(errors, new["spec"], old)
    _not_negative(errors, "spec", new["spec"], "replicas", "minReadySeconds")


def check_replicationcontroller(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    selector = spec.get("selector") or {}
    _template(errors, "spec.template", spec["template"], ("Always",))
    _not_negative(errors, "spec", spec, "replicas", "minReadySeconds")
    errors.labels("spec.selector", selector)
    if not selector:
        errors.required("spec.selector", "required: give a selector, or labels to the template")
    labels = spec["template"]["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        errors.invalid("spec.template.metadata.labels", labels, f"must match spec.selector {selector}")


def check_statefulset(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    _selector_and_template(errors, spec, None)
    _not_negative(errors, "spec", spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    errors.choice("spec.podManagementPolicy", spec["podManagementPolicy"], ("OrderedReady", "Parallel"))
    strategy = spec["updateStrategy"]
    if errors.choice("spec.updateStrategy.type", strategy["type"], ("RollingUpdate", "OnDelete")):
        _not_negative(errors, "spec.updateStrategy.rollingUpdate", strategy.get("rollingUpdate") or {}, "partition")
    for field in ("whenDeleted", "whenScaled"):
        policy = spec["persistentVolumeClaimRetentionPolicy"][field]
        errors.choice(f"spec.persistentVolumeClaimRetentionPolicy.{field}", policy, ("Retain", "Delete"))
    if old is not None:
        for field in sorted((set(spec) | set(old["spec"])) - set(_STATEFULSET_MUTABLE)):
            if field != "volumeClaimTemplates":  # the server adds status and phase to them
                errors.immutable(f"spec.{field}", spec.get(field), old["spec"].get(field))


def check_daemonset(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    _selector_and_template(errors, spec, old)
    _not_negative(errors, "spec", spec, "minReadySeconds", "revisionHistoryLimit")
    strategy = spec["updateStrategy"]
    errors.choice("spec.updateStrategy.type", strategy["type"], ("RollingUpdate", "OnDelete"))
    if strategy["type"] == "RollingUpdate":
        _rolling_update(errors, "spec.updateStrategy.rollingUpdate", strategy["rollingUpdate"])


def check_job(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    _job_spec(errors, "spec", spec)
    selector = spec.get("selector")
    if old is None:
        if selector and not spec.get("manualSelector"):
            errors.invalid(
                "spec.selector", selector, "must be left out (it is made by the server) without manualSelector: true"
            )
        return
    was = old["spec"]
    errors.immutable("spec.selector", selector, was.get("selector"))
    errors.immutable("spec.completionMode", spec["completionMode"], was["completionMode"])
    if not was.get("suspend"):
        errors.immutable("spec.template", spec["template"], was["template"])
    if spec["completionMode"] == "NonIndexed":
        errors.immutable("spec.completions", spec.get("completions"), was.get("completions"))


def check_cronjob(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    schedule = spec.get("schedule", "")
    if not (schedule.startswith("@") or len(schedule.split()) == 5):
        errors.invalid(
            "spec.schedule", schedule, 'must be five fields such as "*/5 * * * *", or a word such as @hourly'
        )
    errors.choice("spec.concurrencyPolicy", spec["concurrencyPolicy"], ("Allow", "Forbid", "Replace"))
    _not_negative(
        errors, "spec", spec, "successfulJobsHistoryLimit", "failedJobsHistoryLimit", "startingDeadlineSeconds"
    )
    _job_spec(errors, "spec.jobTemplate.spec", spec["jobTemplate"]["spec"])


# --- what they share --------------------------------------------------------------------------------------------


def _job_spec(errors: Errors, path: str, spec: Fields) -> None:
    _not_negative(
        errors,
        path,
        spec,
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    )
    errors.choice(f"{path}.completionMode", spec["completionMode"], ("NonIndexed", "Indexed"))
    if spec["completionMode"] == "Indexed" and spec.get("completions") is None:
        errors.required(f"{path}.completions", "required with completionMode Indexed")
    _template(errors, f"{path}.template", spec["template"], ("OnFailure", "Never"))


def _selector_and_template(errors: Errors, spec: Fields, old: Object | None) -> None:
    """``spec.selector`` is there, matches the template's labels, and stays as it is."""
    selector, template = spec.get("selector") or {}, spec["template"]
    errors.selector("spec.selector", selector)
    claims = [(claim.get("metadata") or {}).get("name", "") for claim in spec.get("volumeClaimTemplates") or ()]
    _template(errors, "spec.template", template, ("Always",), claims)
    labels = template["metadata"].get("labels") or {}
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        errors.invalid("spec.selector", selector, "must select something: an empty selector would take all pods")
    elif not any(error.path.startswith("spec.selector") for error in errors) and not selector_of_object(
        selector
    ).matches(labels):
        errors.invalid("spec.template.metadata.labels", labels, "must match spec.selector")
    if old is not None:
        errors.immutable("spec.selector", selector, old["spec"].get("selector"))


def _template(
    errors: Errors, path: str, template: Fields, restart: tuple[str, ...], claims: Iterable[str] = ()
) -> None:
    errors.labels(f"{path}.metadata.labels", template["metadata"].get("labels"))
    check_pod_spec(errors, f"{path}.spec", template["spec"], claims)
    policy = template["spec"]["restartPolicy"]
    if policy not in restart:
        errors.invalid(f"{path}.spec.restartPolicy", policy, f"must be {' or '.join(restart)} here")


def _not_negative(errors: Errors, path: str, fields: Fields, *names: str) -> None:
    for name in names:
        value = fields.get(name)
        if value is not None and value < 0:
            errors.invalid(f"{path}.{name}", value, "must be 0 or more")


def _rolling_update(errors: Errors, path: str, parameters: Fields) -> None:
    for name in ("maxUnavailable", "maxSurge"):
        value = parameters.get(name)
        good = (value is None or value >= 0) if not isinstance(value, str) else bool(_PERCENT.fullmatch(value))
        if not good:
            errors.invalid(
                f"{path}.{name}", value, 'must be a number of pods (0 or more) or a percentage such as "25%"'
            )
    if _is_zero(parameters.get("maxUnavailable")) and _is_zero(parameters.get("maxSurge")):
        errors.invalid(f"{path}.maxUnavailable", parameters.get("maxUnavailable"), "may not be 0 when maxSurge is 0")


def _is_zero(value: int | str | None) -> bool:
    return value in (None, 0) or (isinstance(value, str) and value.rstrip("%").strip("0") == "")
