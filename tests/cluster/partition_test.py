"""Workers and the coordinator are cut off from the network under load, silently, and come back: every stream has the text of
an undisturbed run, token for token, or ends with a reason that says that asking again is right. Nothing hangs.

Every process runs on a host of its own (network.py). Clients sit at the hub, which reaches everybody all the time.
"""

import network

network.enter()

# pylint: disable=wrong-import-position
import concurrent.futures
import contextlib
import json
import os
import select
import subprocess
import threading
import time
import unittest

import grpc

from client import Client, reason_of, scrape, total
from faults_test import STREAMS, SYNTH, run
from harness import BIN, ClusterTest, digest_of, wait_until

WORKERS = ["worker-0", "worker-1", "worker-2"]
TOKEN = "the-token"
TOKENS = 60  # of an answer at most
DETECTED_S = 1.5  # a lease is 0.75 s; the machine may be busy
BACK_S = 5


class Scattered:
    """A coordinator, three workers and perhaps a gateway, each on a host of its own."""

    def __init__(self, net, folder, collectives):
        self.net, self.folder, self.processes = net, folder, {}
        self.folder.mkdir()
        self.address = self.serve("coordinator", "--state", folder / "state")["address"]
        self.client = Client(self.address, TOKEN)
        self.told = {host: self.serve(host, "--coordinator", self.address, "--threads", 1, "--collectives", collectives,
                                      "--metrics-listen", f"{net.address(host)}:0") for host in WORKERS}

    def serve(self, host, *args):
        """Starts a coordinator or a worker; returns what it tells when it is ready."""
        ready, told = os.pipe()
        self.start(host, f"octavo-{host.split('-')[0]}", "--listen", f"{self.net.address(host)}:0", "--ready-fd", told, *args,
                   pass_fds=(told,))
        os.close(told)
        with open(ready, encoding="utf-8") as line:
            assert select.select([line], [], [], 20)[0], f"{host} is not ready\n{self.log(host)}"
            text = line.readline()
        assert text, f"{host} ended\n{self.log(host)}"
        return json.loads(text)

    def gateway(self):
        """Starts `octavo gateway`; returns a client of it."""
        told = self.folder / "gateway.json"
        with open(told, "w", encoding="utf-8") as out:
            self.start("gateway", "octavo", "gateway", "--coordinator", self.address, "--host", self.net.address("gateway"),
                       "--json", stdout=out)
        wait_until(lambda: told.read_text().endswith("\n"), 20, f"the gateway\n{self.log('gateway')}")
        return Client(json.loads(told.read_text())["address"], TOKEN)

    def start(self, host, program, *args, **options):
        with open(self.folder / f"{host}.log", "w", encoding="utf-8") as log:
            self.processes[host] = subprocess.Popen(
                [*network.inside(host), BIN / program, *map(str, args)],
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **options},
                env=dict(os.environ, OCTAVO_TOKEN=TOKEN))

    def log(self, host):
        return (self.folder / f"{host}.log").read_text()

    def hosts_of(self, model):
        """The hosts of a group's ranks, the leader's first."""
        by_pid = {process.pid: host for host, process in self.processes.items()}
        by_worker = {w.hello.worker_id: by_pid[w.hello.pid] for w in self.client.workers()}
        return [by_worker[worker] for worker in model.worker_ids]

    def attached(self):
        return sum(worker.state == "ready" for worker in self.client.workers())

    def weights(self, host):
        """Bytes that a worker holds."""
        return total(scrape(self.told[host]["metrics"]), "octavo_weight_bytes")

    def stop(self):
        for process in self.processes.values():
            process.terminate()
        for host, process in self.processes.items():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{host} did not stop\n{self.log(host)}") from None


class Load:
    """32 streams that are asked for again and again, and what was wrong with them."""

    def __init__(self, clients, undisturbed):
        self.clients, self.undisturbed = clients, undisturbed
        self.done, self.wrong, self.over = [0] * STREAMS, [], threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(STREAMS)]

    def _ask(self, index):
        while not self.over.is_set() and not self.wrong:
            try:
                tokens = run(self.clients[index % len(self.clients)], index, TOKENS)
            except grpc.RpcError as error:
                self.wrong.append((index, error.code(), reason_of(error), error.details()))
                return
            if tokens != self.undisturbed[index]:
                self.wrong.append((index, "another text", {k: len(v) for k, v in tokens.items()}))
            self.done[index] += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


class PartitionTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.net = network.Network(["coordinator", "gateway", *WORKERS])
        cls.folder = cls.synth("model", *SYNTH)
        cls.tcp = Scattered(cls.net, cls.scratch / "tcp", "tcp")
        cls.addClassCleanup(cls.tcp.stop)
        cls.tcp.client.load(cls.folder, 2)
        with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
            cls.undisturbed = list(pool.map(lambda i: run(cls.tcp.client, i, TOKENS), range(STREAMS)))
        print(f"digest {digest_of([sorted(u.items()) for u in cls.undisturbed])}")

    @contextlib.contextmanager
    def load(self, *clients):
        """Streams beside what the caller does, begun when it starts; they are right in the end."""
        with Load(clients, self.undisturbed) as load:
            wait_until(lambda: sum(load.done) or load.wrong, 30, "streams run")
            yield load
            self.assertEqual(load.wrong, [])
        self.assertEqual(load.wrong, [])
        self.assertGreaterEqual(sum(load.done), STREAMS)

    def model(self, cluster):
        return next(m for m in cluster.client.models() if m.model_id == "model")

    def ready_after(self, cluster, epoch):
        model = self.model(cluster)
        return model if model.state == "ready" and model.group_epoch > epoch else None

    def cut_off(self, cluster, rank):
        """Cuts a rank's host off. Returns it and the model of the next group."""
        model = self.model(cluster)
        host, epoch = cluster.hosts_of(model)[rank], model.group_epoch
        hit = time.monotonic()
        self.net.cut(host)
        wait_until(lambda: self.model(cluster).group_epoch != epoch or self.model(cluster).state != "ready",
                   DETECTED_S, f"rank {rank} is missed")
        missed = time.monotonic() - hit
        model = wait_until(lambda: self.ready_after(cluster, epoch), BACK_S, "another group")
        print(f"rank {rank} cut off: missed after {missed:.2f} s, served again after {time.monotonic() - hit:.2f} s")
        self.assertNotIn(host, cluster.hosts_of(model))
        return host, model

    def heal(self, cluster, host):
        """A cut is over: the worker is back and has let go of what it held."""
        healed = time.monotonic()
        self.net.heal(host)
        wait_until(lambda: cluster.attached() == len(WORKERS), 10, f"{host} is back\n{cluster.log(host)}")
        back = time.monotonic() - healed
        wait_until(lambda: cluster.weights(host) == 0, 10, f"{host} let its rank go\n{cluster.log(host)}")
        print(f"{host} attached again after {back:.2f} s, empty after {time.monotonic() - healed:.2f} s")

    def test_streams_go_on_when_ranks_are_cut_off_and_their_workers_come_back(self):
        cluster = self.tcp
        with self.load(cluster.client) as load:
            for rank in (1, 0):
                host, _ = self.cut_off(cluster, rank)
                self.go_on(load, slice(None), "all")
                self.heal(cluster, host)
        # All three serve again.
        cluster.client.load(self.folder, 2, model_id="other")
        cluster.client.unload("other")

    def test_ranks_that_share_memory_and_no_network_are_cut_off_all_the_same(self):
        cluster = Scattered(self.net, self.scratch / "auto", "auto")
        self.addCleanup(cluster.stop)
        model = cluster.client.load(self.folder, 2)
        self.assertIn("meets the others in shared memory", cluster.log(cluster.hosts_of(model)[0]))
        with self.load(cluster.client):
            self.heal(cluster, self.cut_off(cluster, 1)[0])

    def test_where_no_capacity_is_left_streams_wait_as_long_as_their_clients_do(self):
        cluster, client = self.tcp, self.tcp.client
        hosts = cluster.hosts_of(self.model(cluster))
        spare = next(host for host in WORKERS if host not in hosts)
        long = {"token_ids": {"ids": [5, 6, 7]}, "ignore_eos": True, "max_tokens": 1900, "timeout_s": 1.5}
        with self.load(client):
            self.net.cut(spare)
            wait_until(lambda: cluster.attached() == 2, DETECTED_S, "the spare one is missed")
            begin, tokens = time.monotonic(), 0
            stream = client.generate(**long)
            tokens += len(next(stream).delta.tokens)
            self.net.cut(hosts[1])
            with self.assertRaises(grpc.RpcError) as lost:
                for response in stream:
                    tokens += len(response.delta.tokens)
            ended = time.monotonic() - begin
            self.assertEqual((lost.exception.code(), reason_of(lost.exception)),
                             (grpc.StatusCode.UNAVAILABLE, "GROUP_LOST"), lost.exception)
            self.assertLess(ended, 1.5)
            begin = time.monotonic()
            with self.assertRaises(grpc.RpcError) as refused:
                list(client.generate(**long))
            self.assertEqual(reason_of(refused.exception), "NOT_READY")
            self.assertLess(time.monotonic() - begin, 1)
            healed = time.monotonic()
            self.net.heal(spare)
            model = wait_until(lambda: self.ready_after(cluster, 0), 10, "a group of those that are left")
            print(f"no capacity: told after {ended:.2f} s and {tokens} tokens, served again {time.monotonic() - healed:.2f} s "
                  "after one was back")
            self.assertNotIn(hosts[1], cluster.hosts_of(model))
            self.heal(cluster, hosts[1])

    def go_on(self, load, streams, what, count=1):
        """Waits until so many of these streams have ended as they should."""
        before = sum(load.done[streams])
        wait_until(lambda: sum(load.done[streams]) >= before + count or load.wrong, 20, f"streams of {what} go on")

    def test_streams_go_on_when_the_coordinator_is_cut_off_and_when_a_gateway_is(self):
        cluster = self.tcp
        everybody = [*WORKERS, "gateway"]
        own, other = slice(0, None, 2), slice(1, None, 2)
        with self.load(cluster.client, cluster.gateway()) as load:
            for seconds in [1.5, 5.5]:  # after 5 s without an answer connections are given up
                epoch, cut = self.model(cluster).group_epoch, time.monotonic()
                self.net.cut("coordinator", everybody)
                wait_until(lambda: cluster.attached() == 0, DETECTED_S, "all workers are missed")
                # Whoever talks to the gateway notices nothing: it goes on with what it knows.
                self.go_on(load, other, "the gateway", STREAMS // 2)
                time.sleep(max(0, cut + seconds - time.monotonic()))
                healed = time.monotonic()
                self.net.heal("coordinator", everybody)
                wait_until(lambda epoch=epoch: self.ready_after(cluster, epoch), 10, "a group")
                print(f"coordinator cut off for {healed - cut:.1f} s: served again {time.monotonic() - healed:.2f} s after that")
                self.go_on(load, own, "the coordinator")
                self.go_on(load, other, "the gateway")
            wait_until(lambda: cluster.attached() == len(WORKERS), 10, "all are back")
            # Answers that nobody takes do not keep a leader from the next group.
            leader = cluster.hosts_of(self.model(cluster))[0]
            self.net.cut("gateway", [leader])
            time.sleep(2)  # what the kernel buffers is full
            host, _ = self.cut_off(cluster, 1)
            self.net.heal("gateway", [leader])
            self.heal(cluster, host)
            self.go_on(load, other, "the gateway")


if __name__ == "__main__":
    unittest.main()
