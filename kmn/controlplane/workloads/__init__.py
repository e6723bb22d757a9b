"""Workloads: the reconcilers that make pods, one module a kind, and what they share.

``ownership`` (adoption and release by selector), ``template`` (pods and hashes from templates), ``replicas`` (which
pods go first), ``revisions`` (ControllerRevisions of StatefulSets and DaemonSets).
"""
