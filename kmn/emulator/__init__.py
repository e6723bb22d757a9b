"""Nodes, pods and links in the kernel: what a kubelet, a CNI plugin, a container runtime and the cables would be."""
