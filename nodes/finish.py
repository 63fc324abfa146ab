"""When a request is over: length, end of sequence, stop string. The same rule on both nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Finish:
    """`cut(tokens)` on every settled token list; a token past the end is dropped, wherever in a round the end fell."""

    def __init__(
        self,
        prompt_tokens: int,
        max_new_tokens: int,
        eos_tokens: frozenset[int],
        stop: Sequence[str],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self.prompt_tokens, self.max_new_tokens = prompt_tokens, max_new_tokens
        self.eos_tokens, self.stop, self.decode = eos_tokens, list(stop), decode

    def cut(self, tokens: list[int], settled: int) -> tuple[list[int], str | None]:
        """The tokens that stay, and why the request ends there (length | eos | stop) or None. The first `settled`
        tokens were looked at before."""
        start = max(settled, self.prompt_tokens)
        for end in range(start + 1, len(tokens) + 1):
            if tokens[end - 1] in self.eos_tokens:
                return tokens[:end], "eos"
            if self.stop and self.text(tokens[:end])[1]:
                return tokens[:end], "stop"
            if end - self.prompt_tokens >= self.max_new_tokens:
                return tokens[:end], "length"
        return tokens, None

    def text(self, tokens: list[int]) -> tuple[str, bool]:
        """The output as text, up to the first stop string; and whether there was one."""
        output = tokens[self.prompt_tokens :]
        text = self.decode([token for token in output if token not in self.eos_tokens])
        found = [at for at in (text.find(word) for word in self.stop) if at >= 0]
        return (text[: min(found)], True) if found else (text, False)
