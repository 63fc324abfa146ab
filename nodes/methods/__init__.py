"""What crosses the wire, and who finishes the sampling. One exchange of information a file, to be read beside its
paper; the file's name is the method's name in YAML, and dropping a file here is all the registration there is.

A method has two halves. The device half is pure: `propose(draft)` makes what goes up, `resolve(draft, verdict, coins)`
turns the answer into the tokens that follow the accepted ones. The edge half, `serve(up, base, coins)`, is a generator
that yields what it needs and returns what goes down. Methods see numpy and coins: no sockets, no clocks, no torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from nodes.engine import Engine
from nodes.sampling import Coins, Row, sample
from transport.codecs import Codec
from transport.messages import Encoded, Floats, Proposal, Token, Verdict


class MethodError(ValueError):
    """No such method, an option it does not have, or an Up that no device half can have sent."""


class LinkState(NamedTuple):
    """The link as the device has measured it, smoothed."""

    rtt_ms: float
    rate_mbps: float


@dataclass
class Draft:
    """What the drafter made: g tokens, and the very rows they were drawn from. V = vocabulary."""

    base: int  # position of tokens[0]
    tokens: list[Token]  # [g]
    probs: list[float]  # [g] dists[i][tokens[i]]
    dists: list[Row]  # [g, V] as the receiver would decode them
    encoded: list[Encoded]  # the same rows on the wire
    hidden: list[Row] = field(default_factory=list)  # [g, hidden_size] states the rows were made from, if asked for
    link: LinkState | None = None  # when the draft was sent

    def followed_by(self, later: Draft) -> Draft:
        """One draft of both; `later` begins where this ends."""
        return Draft(
            self.base,
            [*self.tokens, *later.tokens],
            [*self.probs, *later.probs],
            [*self.dists, *later.dists],
            [*self.encoded, *later.encoded],
            [*self.hidden, *later.hidden],
        )

    def __repr__(self) -> str:
        return f"Draft(base={self.base}, tokens=[{len(self.tokens)}])"


# What an edge half may yield ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Score:
    """Target rows 0..g around these tokens, placed after what is settled: row i is the law of the i-th position after
    it. The answer is a Dists of g + 1 rows. The one place where sessions of different clients meet in a forward."""

    tokens: list[Token]


@dataclass(slots=True)
class Speculate:
    """A draft by the edge's own draft model, after what is settled. The answer is a Draft."""

    coins: Coins
    limit: int  # at most this many tokens


@dataclass(slots=True)
class Reply:
    """Send this now; the round goes on. The tokens it names are settled and what comes next follows them. With
    `follow_up` the answer is the device's next message of this round, and the next reply replaces this one."""

    down: Verdict
    follow_up: bool = False


Effect = Score | Speculate | Reply
Serving = Generator[Effect, Any, Verdict]
Resolving = Generator[Proposal, Verdict, list[Token]]


class Method:
    """One published exchange. Subclasses name their `Up` and `Down`, and say when they are exact."""

    Up: ClassVar[type[Proposal]]
    Down: ClassVar[type[Verdict]]
    adds: ClassVar[int] = 1  # tokens a verdict adds after a fully accepted draft (the bonus)
    edge: ClassVar[bool] = True  # there is an edge to ask
    drafts: ClassVar[bool] = True  # the device drafts
    streams: ClassVar[bool] = False  # one Up answers a whole request, reply by reply
    takes_any_draft: ClassVar[bool] = False  # what is settled does not depend on how the drafted tokens came about
    edge_drafts: ClassVar[bool] = False  # the edge needs a draft model of its own
    files: ClassVar[tuple[str, ...]] = ()  # options that name a file, taken from the configuration's folder
    reads_hidden: ClassVar[bool] = False  # drafts come with the hidden states they were drawn from

    def __init__(self, up: Codec, down: Codec) -> None:
        self.up, self.down = up, down

    @property
    def exact(self) -> bool:
        """Is the output distributed as the target's, given these codecs?"""
        raise NotImplementedError

    def agreement(self) -> dict[str, Any]:
        """What else both nodes have to hold alike: files that an option names."""
        return {}

    def meet(self, role: Literal["draft", "target"], engine: Engine) -> None:
        """Called on each node before the first request. Raises ValueError where this is not a model to work with."""

    def draw(self, row: Row, coins: Coins, position: int) -> Token:
        """How the drafter draws from a (decoded) row."""
        return sample(row, coins("draft", position))

    def guess(self, row: Row, coins: Coins, position: int) -> Token:
        """What the edge's bonus token would be, were the target this draft row: look-ahead drafts on from it."""
        return sample(row, coins("final", position))

    def propose(self, draft: Draft, remaining: int) -> Proposal | None:
        """What goes up; None: nothing, the draft stands as it is. `remaining` output tokens may still be made."""
        raise NotImplementedError

    def check(self, up: Proposal) -> None:
        """Raise MethodError on an Up that `propose` cannot have made. Runs at the edge before `serve`."""

    def serve(self, up: Any, base: int, coins: Coins) -> Serving:
        """The edge half; `base` is the position of up.tokens[0]."""
        raise NotImplementedError

    def resolve(self, draft: Draft, verdict: Any, coins: Coins) -> list[Token] | Resolving:
        """Tokens that follow the accepted ones. May be a generator that yields follow-ups and receives answers."""
        return verdict.tail


def method_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def method_class(name: str) -> type[Method]:
    """Raises MethodError listing the methods there are."""
    if name not in method_names():
        raise MethodError(f"unknown method {name!r}; there are: {', '.join(method_names())}")
    return importlib.import_module(f"{__name__}.{name}").METHOD


def check_rows(tokens: list[Token], rows: list[Encoded]) -> None:
    """One row a token."""
    if len(rows) != len(tokens):
        raise MethodError(f"{len(tokens)} drafted tokens came with {len(rows)} rows")


def check_probs(tokens: list[Token], probs: Floats) -> None:
    """One probability a token, each in (0, 1]: a token of probability zero cannot have been drawn."""
    if len(probs) != len(tokens):
        raise MethodError(f"{len(tokens)} drafted tokens came with {len(probs)} probabilities")
    if len(probs) and not (probs.min() > 0 and probs.max() <= 1 + 1e-6):
        raise MethodError("a draft probability lies outside (0, 1]")
