#!/bin/sh
# Sets kmn up on first use (Debian packages, a virtual environment beside this script), then runs the kmn command with
# the given arguments:
#
#     sudo ./kmn.sh demo
#     sudo ./kmn.sh test
#
# The set-up is repeated only when this script or pyproject.toml has changed. Works from any folder, also through a
# symbolic link. Never starts or changes an Open vSwitch service of the machine: kmn runs its own.

set -eu

here=$(dirname -- "$(readlink -f -- "$0")")
venv=$here/.venv
python=/usr/bin/python3 # the system's: Mininet's Debian package is for this one
incomplete=$venv/.kmn-incomplete
packages="mininet openvswitch-switch iperf iperf3 tcpdump ethtool curl iproute2 iputils-ping net-tools socat telnet
    traceroute
    procps util-linux python3-venv"
policy=/usr/sbin/policy-rc.d
policy_mark='# Put here by kmn.sh while it installs packages; safe to remove.'

say() { printf 'kmn: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# --- what is wanted ---------------------------------------------------------------------------------------------------

case ${1-} in
test)
    extras='[test]'
    packages="$packages chromium" # loads pages through an Ingress
    ;;
*) extras='' ;;
esac

# Peers and load of the measurements.
bench_packages='wrk nginx-light nftables'

# The stamp of a finished set-up. One with the test tools serves both.
fingerprint=$(cat "$here/pyproject.toml" "$here/kmn.sh" | sha256sum | cut -d ' ' -f 1)
stamp=$venv/.kmn-stamp
stamped() { [ -r "$stamp$1" ] && [ "$(cat "$stamp$1")" = "$fingerprint" ]; }

is_set_up() {
    [ ! -e "$incomplete" ] || return 1
    stamped '[test]' || { [ -z "$extras" ] && stamped ''; }
}

# --- Debian packages --------------------------------------------------------------------------------------------------

missing_packages() {
    for package in $packages; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s ' "$package"
    done
}

# A package that brings a service starts it when it is installed, unless this file says no.
forbid_services() {
    trap allow_services EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if [ -e "$policy" ] && ! grep -qF "$policy_mark" "$policy"; then
        mv -- "$policy" "$policy.kmn-saved"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
}

allow_services() {
    rm -f -- "$policy"
    if [ -e "$policy.kmn-saved" ]; then mv -- "$policy.kmn-saved" "$policy"; fi
    rm -f -- "${log-}"
    trap - EXIT INT TERM HUP
}

install_packages() {
    command -v dpkg-query >/dev/null || die "this is no Debian: install by hand what these packages hold: $packages"
    missing=$(missing_packages)
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || die "packages are missing: ${missing}- run it once with sudo: sudo $0 ${1-}"
    say "installing packages: $missing"
    log=$(mktemp)
    forbid_services
    export DEBIAN_FRONTEND=noninteractive
    # A failing update may still leave an index that is good enough: the installation tells.
    apt-get -qq update >"$log" 2>&1 || say 'apt-get update failed; trying with the package lists at hand'
    # shellcheck disable=SC2086  # a list of words
    if ! apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends $missing >>"$log" 2>&1; then
        tail -n 15 -- "$log" >&2
        die "apt-get could not install $missing- is there a network? The lines above tell what it said."
    fi
    # What is new on this machine because of us shall not start at the next boot either.
    for pair in openvswitch-switch:openvswitch-switch nginx-light:nginx nftables:nftables; do
        case " $missing " in
        *" ${pair%:*} "*)
            if [ -d /run/systemd/system ]; then systemctl --quiet disable "${pair#*:}.service" >/dev/null 2>&1 || :; fi
            ;;
        esac
    done
    allow_services
}

# --- Python -----------------------------------------------------------------------------------------------------------

install_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is $("$python" -V 2>&1): kmn needs Python 3.11 or newer (Debian 12 has it)"
    if [ -e "$incomplete" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        rm -rf -- "$venv" || die "$venv: cannot be removed to make it anew; run it once with sudo"
    fi
    if ! mkdir -p -- "$venv" 2>/dev/null || ! touch -- "$incomplete" 2>/dev/null; then
        die "$venv: cannot be written; run it once with sudo, or as the owner of $here"
    fi
    say 'setting up the Python environment (once)'
    [ -x "$venv/bin/pip" ] || "$python" -m venv --system-site-packages "$venv" ||
        die "$venv: $python -m venv failed; is the package python3-venv whole?"
    "$venv/bin/python" -m pip -qq --disable-pip-version-check install --editable "$here$extras" >&2 ||
        die 'pip could not install the Python packages - is there a network? The lines above tell what it said.'
    # The path as well as pip's import hook: with the hook alone, a folder called kmn beside a script (a clone, say)
    # would be taken for the package.
    for packages_dir in "$venv"/lib/python3*/site-packages; do
        printf '%s\n' "$here" >"$packages_dir/kmn-checkout.pth"
    done
    "$venv/bin/kmn" version >/dev/null || die "$venv: the kmn command does not run"
    printf '%s\n' "$fingerprint" >"$stamp$extras"
    rm -f -- "$incomplete"
}

# --- go ---------------------------------------------------------------------------------------------------------------

if [ "${1-}" = bench ]; then
    packages="$packages $bench_packages"
    exec 9<"$here"
    flock 9
    install_packages "$@"
    exec 9<&-
fi

if ! is_set_up; then
    exec 9<"$here"
    flock 9 # another kmn.sh may be at it
    if ! is_set_up; then
        install_packages "$@"
        install_python
    fi
    exec 9<&-
fi

exec "$venv/bin/kmn" "$@"
