"""Who is scored together, and where a round's time at the edge is booked: waiting is waiting, whatever for."""

from __future__ import annotations

import time

import pytest
from harness import Setup

from nodes.batching import Batcher, Task
from nodes.methods import Reply, Score
from nodes.policies.batch import make_batch
from nodes.sampling import Sampling
from nodes.session import Session
from transport.messages import Verdict

LATE_NS = 5_000_000_000  # for so long the engine was busy with others when the message came in
WORK_NS = 2_000_000  # what an edge half does before it asks for rows


def work():
    until_ns = time.monotonic_ns() + WORK_NS
    while time.monotonic_ns() < until_ns:
        pass


def one_leg():
    work()
    yield Score([3])
    return Verdict(n_accepted=0, tail=[4])


def stream():
    yield Score([])
    yield Reply(Verdict(n_accepted=0, tail=[4]))
    yield Score([])
    return Verdict(n_accepted=0, tail=[5])


def two_legs():
    yield Score([3])
    yield Reply(Verdict(n_accepted=0, tail=[]), follow_up=True)
    work()
    return Verdict(n_accepted=0, tail=[4])


class Bench:
    """A batcher on a toy engine; keeps (residence, queue, compute), in ns, of each reply, and begins the next anew."""

    def __init__(self, policy="immediate"):
        self.batcher = Batcher(Setup(["token_match"]).engine("target"), make_batch(policy))
        self.replies: list[tuple[int, int, int]] = []

    def task(self, serving, late_ns=LATE_NS):
        def deliver(task, down, last):
            self.replies.append((time.monotonic_ns() - task.arrived_ns, task.queue_ns, task.compute_ns))
            task.queue_ns = task.compute_ns = 0
            return True

        def fail(task, error):
            raise error

        session, arrived_ns = Session(Sampling()), time.monotonic_ns() - late_ns
        return Task(serving(), session, [1, 2], [], deliver, lambda *_: None, fail, arrived_ns)


@pytest.mark.parametrize("policy", ["immediate", {"policy": "age", "age_ms": 1}], ids=str)
def test_queueing_is_all_that_was_waited_and_no_work(policy):
    bench = Bench(policy)
    bench.batcher.start(bench.task(one_leg))
    bench.batcher.fire()
    [(residence_ns, queue_ns, compute_ns)] = bench.replies
    assert LATE_NS <= queue_ns <= residence_ns - compute_ns - WORK_NS


def test_of_a_stream_the_first_reply_alone_waited_for_the_message_to_be_taken_up():
    bench = Bench()
    bench.batcher.start(bench.task(stream))
    bench.batcher.fire()
    bench.batcher.fire()
    (_, first_ns, _), (residence_ns, second_ns, _) = bench.replies
    assert first_ns >= LATE_NS and second_ns <= residence_ns - first_ns


def test_a_later_leg_waits_on_its_own_account():
    bench = Bench()
    task = bench.task(two_legs, late_ns=0)
    bench.batcher.start(task)
    bench.batcher.fire()
    bench.batcher.follow_up(task, None, time.monotonic_ns() - LATE_NS)
    residence_ns, queue_ns, _ = bench.replies[-1]
    assert LATE_NS <= queue_ns <= residence_ns - WORK_NS


@pytest.mark.parametrize(
    ("policy", "waits_ns"), [("age", 10e6), ("size", 50e6), ("immediate", 0)], ids=["age", "size", "immediate"]
)
def test_the_longest_waiting_says_when_to_fire_wherever_it_stands(policy, waits_ns):
    """A task that was scored in the forward before goes on before messages are taken up that came in during it."""
    bench = Bench(policy)
    young, old = bench.task(one_leg, late_ns=0), bench.task(one_leg)
    bench.batcher.start(young)
    bench.batcher.start(old)
    due_ns = bench.batcher.due_ns() - waits_ns
    assert old.arrived_ns <= due_ns < young.arrived_ns
