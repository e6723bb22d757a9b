"""The Kubernetes vocabulary that every part of kmn shares: resources, objects, selectors, errors, the API client.

Nothing in here knows about Mininet, Open vSwitch or the server; of kmn, ``controller/`` imports this package,
``kmn.policy`` and ``kmn.openflow``, and no other.
"""
