"""The container runtime: emulated containers of all pods of a cluster, and the probes, in a process of its own.

    python -m kmn.emulator.runtime --socket PATH --cluster NAME

It stands where containerd stands: the kubelet (``kmn.emulator.kubelet``) tells it over a Unix socket what to run, in
the words of ``protocol``. There are no images and no commands: a container listens on its ports, says who and where it
is over HTTP, and echoes everything else (``docs/containers.md``). It knows nothing of the API, and makes no devices.

One process serves every pod: it enters a pod's namespace, opens the sockets, and comes back (``kmn.emulator.netns``).
"""
