"""The syntax that Kubernetes asks of names, labels, ports and addresses, and the collector of what is wrong.

A rule returns what would be right, or "" when the value is; :class:`Errors` adds path and value. The expressions are
those of apimachinery (``pkg/util/validation``); the words are kmn's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from kmn.k8s.errors import FieldError
from kmn.k8s.schema import did_you_mean, in_words

__all__ = [
    "PROTOCOLS",
    "Errors",
    "Rule",
    "cidr",
    "dns1035_label",
    "dns_label",
    "dns_subdomain",
    "ip_address",
    "label_value",
    "path_segment",
    "port_name",
    "port_number",
    "qualified_name",
    "wildcard_subdomain",
]

Rule = Callable[[Any], str]
PROTOCOLS = ("TCP", "UDP", "SCTP")

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_WILDCARD = re.compile(rf"\*\.{_LABEL}(\.{_LABEL})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[-a-z0-9]+")


class Errors(list[FieldError]):
    """What is wrong with an object; the methods are the kinds of errors that the API knows."""

    def invalid(self, path: str, value: Any, must: str) -> None:
        self.append(FieldError(path, f"{must}, is {in_words(value)}", "FieldValueInvalid"))

    def required(self, path: str, why: str = "required") -> None:
        self.append(FieldError(path, why, "FieldValueRequired"))

    def forbidden(self, path: str, why: str) -> None:
        self.append(FieldError(path, why, "FieldValueForbidden"))

    def duplicate(self, path: str, value: Any, where: str = "") -> None:
        text = f"{in_words(value)} is used twice{f', here and in {where}' if where else ''}: use another"
        self.append(FieldError(path, text, "FieldValueDuplicate"))

    def choice(self, path: str, value: Any, choices: Iterable[str]) -> bool:
        """The value is one of the choices."""
        choices = tuple(choices)
        if value in choices:
            return True
        near = did_you_mean(str(value), choices)
        words = ", ".join(choices)
        text = f"must be one of {words}; is {in_words(value)}{near}"
        self.append(FieldError(path, text, "FieldValueNotSupported"))
        return False

    def check(self, path: str, value: Any, rule: Rule) -> bool:
        """The value keeps the rule."""
        must = rule(value)
        if must:
            self.invalid(path, value, must)
        return not must

    def labels(self, path: str, labels: Mapping[str, Any] | None) -> None:
        for key, value in (labels or {}).items():
            self.check(path, key, qualified_name)
            self.check(f"{path}[{key}]", value, label_value)

    def selector(self, path: str, selector: Mapping[str, Any] | None) -> None:
        """A label selector (matchLabels, matchExpressions)."""
        if not selector:
            return
        self.labels(f"{path}.matchLabels", selector.get("matchLabels"))
        for index, term in enumerate(selector.get("matchExpressions") or ()):
            at = f"{path}.matchExpressions[{index}]"
            values = term.get("values") or []
            if self.choice(f"{at}.operator", term.get("operator"), ("In", "NotIn", "Exists", "DoesNotExist")):
                if term["operator"] in ("In", "NotIn") and not values:
                    self.required(f"{at}.values", f"required with operator {term['operator']}: at least one value")
                elif term["operator"] in ("Exists", "DoesNotExist") and values:
                    self.forbidden(f"{at}.values", f"may not be given with operator {term['operator']}: remove it")
            self.check(f"{at}.key", term.get("key", ""), qualified_name)
            for number, value in enumerate(values):
                self.check(f"{at}.values[{number}]", value, label_value)

    def immutable(self, path: str, new: Any, old: Any, remedy: str = "delete the object and create it again") -> None:
        if new != old:
            self.append(FieldError(path, f"may not change (was {in_words(old)}): {remedy}", "FieldValueInvalid"))


def dns_label(value: str) -> str:
    if len(value) <= 63 and _DNS_LABEL.fullmatch(value):
        return ""
    return (
        "must be at most 63 characters a-z, 0-9 and -, beginning and ending with a letter or digit "
        '(a DNS label such as "my-name")'
    )


def dns1035_label(value: str) -> str:
    if len(value) <= 63 and _DNS1035.fullmatch(value):
        return ""
    return (
        "must be at most 63 characters a-z, 0-9 and -, beginning with a letter and ending with a letter or digit (a "
        'DNS label such as "my-name")'
    )


def dns_subdomain(value: str) -> str:
    if len(value) <= 253 and _SUBDOMAIN.fullmatch(value):
        return ""
    return (
        "must be at most 253 characters a-z, 0-9, - and ., beginning and ending with a letter or digit "
        '(a DNS name such as "example.com")'
    )


def wildcard_subdomain(value: str) -> str:
    return "" if len(value) <= 253 and _WILDCARD.fullmatch(value) else 'must be a wildcard name such as "*.example.com"'


def path_segment(value: str) -> str:
    if value in ("", ".", "..") or "/" in value or "%" in value:
        return 'must be a name without "/" and "%", not "." or ".."'
    return ""


def qualified_name(value: str) -> str:
    """Keys of labels and annotations: an optional DNS name and a slash, then a name."""
    prefix, slash, name = value.rpartition("/")
    if (not slash or (prefix and not dns_subdomain(prefix))) and len(name) <= 63 and _QUALIFIED.fullmatch(name):
        return ""
    return (
        "keys must be at most 63 letters, digits, -, _ and ., beginning and ending with a letter or digit, "
        'with an optional DNS name before them ("example.com/my-key")'
    )


def label_value(value: str) -> str:
    if value == "" or (len(value) <= 63 and _QUALIFIED.fullmatch(value)):
        return ""
    return "must be at most 63 letters, digits, -, _ and ., beginning and ending with a letter or digit, or empty"


def port_number(value: int) -> str:
    return "" if 1 <= value <= 65535 else "must be a port number, 1 to 65535"


def port_name(value: str) -> str:
    """An IANA service name."""
    good = len(value) <= 15 and _PORT_NAME.fullmatch(value) and any(c.isalpha() for c in value)
    if good and "--" not in value and not value.startswith("-") and not value.endswith("-"):
        return ""
    return (
        "must be a port name: at most 15 characters a-z, 0-9 and single -, with a letter, "
        "beginning and ending with a letter or digit"
    )


def ip_address(value: str) -> str:
    try:
        IPv6Address(value) if ":" in value else IPv4Address(value)
    except AddressValueError:
        return 'must be an IP address such as "10.1.2.3"'
    return ""


def cidr(value: str) -> str:
    try:
        _ = IPv6Network(value, strict=False) if ":" in value else IPv4Network(value, strict=False)
    except ValueError:
        return 'must be a network in CIDR notation such as "10.1.0.0/16"'
    return "" if "/" in value else 'must have a prefix length: write "10.1.2.3/32" for one address'
