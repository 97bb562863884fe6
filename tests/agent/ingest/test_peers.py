"""Local processes are watched with one descriptor each, or without any."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.agent.protocol.fakes import Agent
from tests.agents import kill_at_end, until

from kaywatch_agent.ingest.peers import LocalPeer
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_all_clients_of_a_process_share_a_descriptor() -> None:
    before = open_descriptors()
    peers = [LocalPeer.find(os.getpid(), time.time()) for _ in range(300)]
    assert open_descriptors() == before + 1
    for peer in peers:
        assert peer is not None
        assert not peer.has_exited()
        peer.close()
    assert open_descriptors() == before


def test_the_end_of_a_process_is_noticed_by_all_its_peers() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with kill_at_end(process) as child:
        assert child.stdin is not None
        peers = [LocalPeer(child.pid, 0, 0) for _ in range(3)]
        assert peers[0].sample() is not None
        assert [peer.has_exited() for peer in peers] == [False] * 3
        child.stdin.close()
        until(peers[0].has_exited, "the exit is noticed while it is a zombie")
        assert [peer.has_exited() for peer in peers] == [True] * 3
        # It has no memory now, which says nothing about how much it used.
        assert peers[0].sample() is None
        assert LocalPeer.find(child.pid, time.time()) is None
    assert LocalPeer.find(child.pid, time.time()) is None


def test_a_relay_with_many_clients_is_watched_after_a_restart() -> None:
    agent = Agent()
    started = LocalPeer(os.getpid(), 0, 0).started
    before = open_descriptors()
    clients = [
        Client(f"{n:032x}", pid=os.getpid(), uid=0, start=started) for n in range(1_200)
    ]
    agent.pipeline.restore(clients, LocalPeer.find, "here")
    assert open_descriptors() <= before + 1
    agent.tick()
    states = {client.state for client in agent.pipeline.clients}
    assert states == {ClientState.DISCONNECTED}


WITHOUT_DESCRIPTORS = """
import os, resource, subprocess, sys, time
from kaywatch_agent.ingest.peers import LocalPeer
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
files = []
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
try:
    while True:
        files.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
peer = LocalPeer.find(child.pid, time.time())
print(peer.has_exited(), peer.started, peer.sample())
os.close(files.pop())
print(peer.has_exited(), peer.sample() is None)
child.stdin.close()
child.wait()
print(peer.has_exited())
"""


def test_without_a_descriptor_a_process_is_not_taken_for_dead() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["False 0.0 None", "False False", "True"], (
        done.stderr
    )
