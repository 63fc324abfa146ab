"""The bench of two machines and of sweeps that are killed, in small. No times are asserted."""

from __future__ import annotations

import math
import socket

import pytest

from experiments.bench import deploy, neighbours, resume


def test_neighbours_listen_while_they_are_wanted_and_not_after(tmp_path):
    if problem := neighbours.why_not():
        pytest.skip(problem)
    with neighbours.neighbours(tmp_path) as hosts:
        doors = {role: (host["address"], host["port"]) for role, host in hosts.items()}
        assert len(set(doors.values())) == 2
        for door in doors.values():
            socket.create_connection(door, 5).close()
    for door in doors.values():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(door, 5)


def test_deploying_is_measured_cold_and_warm():
    if problem := neighbours.why_not():
        pytest.skip(problem)
    warm, cold = deploy.measure(warm=1)
    assert warm["bound"] == "<= 15" and warm["unit"] == "s" and 0 < warm["value"] < 100
    assert cold["value"] > 0 and not cold["bound"]


def test_without_an_ssh_server_the_bound_is_not_kept_and_it_says_why(monkeypatch):
    monkeypatch.setattr(deploy, "why_not", lambda: "needs openssh-server")
    [only] = deploy.measure()
    assert math.isnan(only["value"]) and not only["ok"] and only["note"] == "needs openssh-server"


@pytest.mark.slow
def test_a_sweep_that_is_killed_is_counted():
    there, twice, kills = resume.measure(runs=4, kills=3)
    assert (there["value"], there["bound"], there["ok"]) == (4, ">= 4", True)
    assert (twice["value"], twice["ok"]) == (0, True) and kills["value"] <= 3
