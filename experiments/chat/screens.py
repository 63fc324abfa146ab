"""Where a chat is seen: in colours on a terminal, as plain text in a pipe, as a JSON document a line.

Every token has the colour of who made it; below the text, while it grows, a line of what the link, the draft and both
nodes do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from experiments.chat.watts import Watts
from experiments.progress import STAGES
from experiments.reading import sendable
from nodes.records import Maker

STYLES: dict[Maker, str] = {  # told apart without colours too
    "accepted": "green",
    "corrected": "bold yellow",
    "bonus": "bold cyan",
    "target": "blue",
    "unverified": "italic underline magenta",
}
MEANING: dict[Maker, str] = {
    "accepted": "drafted, accepted by the edge",
    "corrected": "in place of a rejected one",
    "bonus": "after a draft that stood whole",
    "target": "the edge's own",
    "unverified": "the device's own, seen by nobody",
}
REFRESHES_PER_S = 12
SYSTEM = "/system"


class Prompts:
    """Prompts one by one, each with the system that answers it; a line `/system NAME` changes that. One that is not
    UTF-8 is a ConfigError."""

    def __init__(self, lines: Iterator[str], systems: list[str], system: str, note: Callable[[str], None]) -> None:
        self._lines, self.systems, self.system, self._note = lines, systems, system, note

    def next(self) -> tuple[str, str] | None:
        for line in self._lines:
            command, _, name = line.partition(" ")
            if command == SYSTEM:
                self._choose(name.strip())
            elif line.strip():
                return sendable(line, "the prompt"), self.system
        return None

    def _choose(self, name: str) -> None:
        if name in self.systems:
            self.system = name
        else:
            self._note(f"no system {name!r} here; there are: {', '.join(self.systems)}")


def typed_lines() -> Iterator[str]:
    """What somebody types, until Ctrl-D, or Ctrl-C with nothing being answered."""
    import readline  # noqa: F401  input() has arrow keys and a history by it

    while True:
        try:
            yield input("› ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


class Tally:
    """One answer so far."""

    def __init__(self) -> None:
        self.rounds = self.tokens = self.drafted = self.accepted = self.up_bytes = self.down_bytes = 0
        self.network_ms: float | None = None

    def add(self, fields: dict[str, Any]) -> None:
        self.rounds += 1
        self.tokens += fields["n_emitted"]
        self.drafted += fields["n_drafted"]
        self.accepted += fields["n_accepted"]
        self.up_bytes += fields["up_wire_bytes"]
        self.down_bytes += fields["down_wire_bytes"]
        if fields["received_ns"]:
            self.network_ms = fields["network_ms"] / fields["legs"]

    def line(self, watts: dict[str, float | None], sources: dict[str, dict[str, Any]]) -> str:
        parts = [f"{self.tokens} tokens, {self.rounds} rounds"]
        if self.drafted:
            share = 100 * self.accepted / self.drafted
            parts.append(f"accepted {self.accepted} of {self.drafted} ({share:.0f} %)")
        if self.network_ms is not None:
            parts.append(f"RTT {self.network_ms:.1f} ms")
        parts.append(f"↑ {_bytes(self.up_bytes)} ↓ {_bytes(self.down_bytes)}")
        for node, value in watts.items():
            status = sources[node].get("status", "")
            parts.append(f"{node} – W" if value is None else f"{node} {value:.1f} W {status}")
        return " · ".join(parts)


class JsonScreen:
    """A document a line on stdout: every round as it ends, and every answer."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts, self.failed = prompts, False

    def stage(self, stage: str, fields: dict[str, Any]) -> None:
        pass

    def ask(self, watts: Watts) -> tuple[str, str] | None:
        return self.prompts.next()

    def round(self, fields: dict[str, Any], watts: Watts) -> None:
        self._print({**fields, "watts": watts.now()})

    def answer(self, fields: dict[str, Any], watts: Watts) -> None:
        self._print({**fields, "watts": watts.now(), "energy_sources": watts.sources()})

    def refused(self, fields: dict[str, Any]) -> None:
        self.failed = True
        self._print(fields)

    def close(self) -> None:
        pass

    def _print(self, fields: dict[str, Any]) -> None:
        print(json.dumps(fields), flush=True)


class TextScreen:
    """The answer on stdout, all else on stderr; on a terminal with colours and a line that lives below."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts, self.failed = prompts, False
        self.console = Console(highlight=False)
        self.notes = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._tally, self._below, self._line = Tally(), "", Text()
        self._explained = False

    def stage(self, stage: str, fields: dict[str, Any]) -> None:
        if stage in STAGES:
            self.notes.print(f"[dim]{STAGES[stage]}[/]")
        elif stage == "edge_restarted":
            self.notes.print(f"[yellow]the edge died (code {fields['code']}) and is started again[/]")

    def ask(self, watts: Watts) -> tuple[str, str] | None:
        if not self._explained and self.console.is_terminal:
            self._explain(watts)
        self._tally, self._line = Tally(), Text()
        return self.prompts.next()

    def round(self, fields: dict[str, Any], watts: Watts) -> None:
        self._tally.add(fields)
        self._below = self._tally.line(watts.now(), watts.sources())
        if self.console.is_terminal:
            self._grow(fields["tokens"])
        else:
            self.console.file.write("".join(token["text"] for token in fields["tokens"]))
            self.console.file.flush()

    def answer(self, fields: dict[str, Any], watts: Watts) -> None:
        tpot = f", {fields['tpot_ms']:.1f} ms a token" if fields["tpot_ms"] is not None else ""
        why = f", {fields['finish_reason']}" if fields["finish_reason"] != "length" else ""
        tail = f"{fields['system']}: first token after {fields['ttft_ms']:.0f} ms{tpot}{why}"
        self._below = f"{self._tally.line(watts.now(), watts.sources())} · {tail}"
        self._end()
        if not self.console.is_terminal:
            self.console.file.write("\n")
            self.notes.print(Text(self._below, "dim"), soft_wrap=True)

    def refused(self, fields: dict[str, Any]) -> None:
        self.failed = True
        self._end()
        self.notes.print(f"not answered: {fields['error']}", style="red", markup=False)

    def legend(self) -> Text:
        parts = [Text(maker, style).append(f" {MEANING[maker]}", "not bold not italic not underline dim")
                 for maker, style in STYLES.items()]  # fmt: skip
        return Text("\n").join(parts)

    def _explain(self, watts: Watts) -> None:
        self._explained = True
        self.console.print(self.legend())
        for node, source in watts.sources().items():
            if not source["probes"]:
                self.console.print(Text(f"{node}: no watts: {source['reason']}", "dim"))
        systems = self.prompts.systems
        others = f" (or {SYSTEM} NAME: {', '.join(systems)})" if len(systems) > 1 else ""
        keys = "Ctrl-C ends an answer, Ctrl-D the chat"
        self.console.print(Text(f"{self.prompts.system} answers{others}; {keys}", "dim"))

    def _grow(self, tokens: list[dict[str, Any]]) -> None:
        """What is settled for good, whole lines, is printed above; the live region has the line that grows."""
        if self._live is None:
            self._live = Live(console=self.console, refresh_per_second=REFRESHES_PER_S, get_renderable=self._region)
            self._live.start()
        for token in tokens:
            self._line.append(token["text"], STYLES[token["maker"]])
        *whole, self._line = self._line.split("\n", allow_blank=True)
        for line in whole:
            self.console.print(line, soft_wrap=True)
        while len(self._line) > self.console.width:  # a line longer than the terminal is as good as several
            full, self._line = self._line.divide([self.console.width])
            self.console.print(full, soft_wrap=True)

    def _region(self) -> RenderableType:
        return Group(self._line, Text(self._below, "dim"))

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        self._end()


def stdin_lines() -> Iterator[str]:
    return (line.rstrip("\n") for line in sys.stdin)


def _bytes(n: int) -> str:
    return f"{n} B" if n < 1000 else f"{n / 1000:.1f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB"
