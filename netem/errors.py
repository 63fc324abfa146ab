"""The three ways a link can fail."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import join


class LinkError(RuntimeError):
    """The link is not what was declared, or could not be built. Base of the other two."""


class CommandError(LinkError):
    """A command did not succeed; carries the command and what it said."""

    def __init__(self, argv: Sequence[str], said: str, where: str = "") -> None:
        self.argv = list(argv)
        self.said = said.strip()
        place = f" (on the {where})" if where else ""
        super().__init__(f"command failed{place}: {join(self.argv)}\n  {self.said or 'it said nothing'}")


class BackendError(LinkError):
    """No way to build this link on this machine; the message holds the command that mends it."""
