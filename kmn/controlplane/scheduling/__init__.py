"""The scheduler's parts.

``nodematch`` is a pod against one node's labels and taints (DaemonSets use it as well), ``wants`` is what a pod asks
for, parsed once a template, ``state`` is where pods are, ``choose`` filters and orders. ``scheduler`` is the shell.
"""
