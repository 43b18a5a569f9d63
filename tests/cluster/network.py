"""A network of the test's own, as network namespaces of the kernel: hosts in a star around the one where the test runs.

Packets between two hosts that are cut off from each other vanish: no reset, no ICMP, no lost carrier. That is how a pulled
cable behind a switch or a dropped route looks to a process, and the worst that can happen to a connection.
"""

import os
import pathlib
import subprocess
import sys

INSIDE = "OCTAVO_TEST_NETWORK"
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


def enter():
    """Starts this program again where it may make networks; returns at once there. Root is not needed. To be called before
    anything that must be undone at the end."""
    if os.environ.get(INSIDE):
        return
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        sys.exit(f"no network namespaces can be made here, and this test needs them: {tried.stderr.strip()}\n"
                 "The kernel must allow user namespaces (sysctl user.max_user_namespaces, "
                 "kernel.apparmor_restrict_unprivileged_userns=0), and a container must let unshare and mount pass.")
    os.environ[INSIDE] = "yes"
    os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, *sys.argv])


def run(*args, text=None):
    done = subprocess.run(args, input=text, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"{' '.join(args)}\n{text or ''}\n{done.stderr}"


def inside(host):
    """The beginning of a command line that runs on a host, and not longer than who started it."""
    return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{host}"]


class Network:
    """Hosts that reach each other through this one, which all of them reach too, cut off or not."""

    def __init__(self, hosts):
        self.hosts = list(hosts)
        run("mount", "-t", "tmpfs", "tmpfs", "/run")  # where iproute2 keeps the names; private to this mount namespace
        os.mkdir("/run/netns")
        run("ip", "link", "set", "lo", "up")
        pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for host in self.hosts:
            hub = self.address(host, 1)
            run("ip", "netns", "add", host)
            run("ip", "-batch", "-", text=f"link add to-{host} type veth peer name uplink netns {host}\n"
                                          f"address add {hub}/24 dev to-{host}\nlink set to-{host} up\n")
            run(*inside(host), "ip", "-batch", "-", text=f"link set lo up\naddress add {self.address(host)}/24 dev uplink\n"
                                                         f"link set uplink up\nroute add default via {hub}\n")

    def address(self, host, number=2):
        return f"10.9.{self.hosts.index(host)}.{number}"

    def cut(self, host, others=None):
        """Cuts a host off from these, or from all others."""
        self._rules("add", host, others)

    def heal(self, host, others=None):
        """Undoes a cut of the same hosts."""
        self._rules("del", host, others)

    def _rules(self, verb, host, others):
        pairs = [(self.address(host), self.address(other)) for other in others or self.hosts if other != host]
        run("ip", "-batch", "-", text="".join(f"rule {verb} from {a} to {b} blackhole\nrule {verb} from {b} to {a} blackhole\n"
                                              for a, b in pairs))
