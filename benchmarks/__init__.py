"""Measurements of kmn beside its peers, in one run, as ratios. Not tests: nothing in here passes or fails.

    sudo ./kmn.sh bench bringup          1,000 pods on 50 nodes: against stock Mininet, and against the leanest script
    sudo ./kmn.sh bench throughput       iperf3 on every path: against stock Mininet, bare Open vSwitch, a Linux bridge
    sudo ./kmn.sh bench paths            HTTP and iperf3 on every way in and out: against kube-proxy's nftables rules
    sudo ./kmn.sh bench services         10 to 10,000 Services: programming, changes, connections through a VIP
    sudo ./kmn.sh bench ingress          requests: Envoy against nginx; 1,000 Ingresses: changes, memory, failures
    sudo ./kmn.sh bench connections      100,000 TCP connections open at a time through one node
    sudo ./kmn.sh bench memory           per node and per pod

Figures of one run can be compared with each other; figures of two runs, on a shared machine, cannot.
"""
