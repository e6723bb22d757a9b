"""The cluster's DNS: records by the Kubernetes DNS specification 1.1.0, and the server that the pods ask.

Data flows one way: objects → ``zone`` (an index, kept up by events) → ``answer`` (pure) → ``responder`` (packets, pure
but for its cache) → ``server`` (sockets in the pods' namespaces). ``forward`` asks upstream for what is not ours. What
a pod's ``resolv.conf`` says is the kubelet's business, not this package's.
"""
