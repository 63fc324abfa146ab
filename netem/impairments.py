"""What a direction can suffer besides single numbers: losses that come in bursts, packets that leave in slots.

Each is given by what one can see on a link; netem's own parameters follow from it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A mapping in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GilbertSpec(Strict):
    """Losses that come in bursts (Gilbert's two states), given by what one can see: mean loss and mean burst.

    With `bad_loss_pct` or `good_loss_pct` it is Elliott's: the bad state loses not all, the good one not nothing.
    """

    mean_loss_pct: float = Field(gt=0, lt=100)
    mean_burst: float = Field(ge=1, description="mean number of packets in the bad state, so lost in a row")
    bad_loss_pct: float = Field(default=100.0, gt=0, le=100)
    good_loss_pct: float = Field(default=0.0, ge=0, lt=100)

    @property
    def leave_pct(self) -> float:
        """Chance per packet of leaving the bad state (netem's r)."""
        return 100.0 / self.mean_burst

    @property
    def enter_pct(self) -> float:
        """Chance per packet of entering the bad state (netem's p)."""
        return self.leave_pct * (self.mean_loss_pct - self.good_loss_pct) / (self.bad_loss_pct - self.mean_loss_pct)

    @property
    def memory(self) -> float:
        """Correlation of a packet's state with the next one's."""
        return 1 - (self.enter_pct + self.leave_pct) / 100

    @property
    def netem_pct(self) -> dict[str, float]:
        """netem's parameters by the names `tc` shows."""
        return {"p": self.enter_pct, "r": self.leave_pct, "1-h": self.bad_loss_pct, "1-k": self.good_loss_pct}

    @model_validator(mode="after")
    def _reachable(self) -> GilbertSpec:
        if not self.good_loss_pct < self.mean_loss_pct < self.bad_loss_pct:
            raise ValueError(
                f"gilbert: mean_loss_pct ({self.mean_loss_pct:g}) has to lie between good_loss_pct"
                f" ({self.good_loss_pct:g}) and bad_loss_pct ({self.bad_loss_pct:g})"
            )
        shortest = (self.mean_loss_pct - self.good_loss_pct) / (self.bad_loss_pct - self.mean_loss_pct)
        if self.mean_burst < shortest:
            raise ValueError(
                f"gilbert: a mean loss of {self.mean_loss_pct:g} % cannot come in bursts of"
                f" {self.mean_burst:g} packets: raise mean_burst to at least {shortest:.3g}"
            )
        return self


class LossStatesSpec(Strict):
    """netem's four states: bursts in which some packets get through, and losses that stand alone.

    The five figures are those of the "general and intuitive" model (Salsano, Ludovici, Ordine, Giannuzzi: Definition of
    a general and intuitive loss model for packet networks and its implementation in the Netem module in the Linux
    kernel, 2012). States: 1 received, 3 lost in a burst, 2 received in a burst, 4 lost alone.
    """

    mean_loss_pct: float = Field(gt=0, lt=100, description="of all packets, however lost")
    mean_burst: float = Field(ge=1, description="packets from a burst's first loss to its last")
    burst_density_pct: float = Field(default=100.0, gt=0, le=100, description="share of a burst's packets that is lost")
    good_run: float = Field(default=1.0, ge=1, description="packets received in a row inside a burst")
    isolated_loss_pct: float = Field(default=0.0, ge=0, lt=100, description="of all packets, those lost alone")

    @property
    def netem_pct(self) -> dict[str, float]:
        """Transition chances in per cent, by netem's names."""
        density, isolated = self.burst_density_pct / 100, self.isolated_loss_pct / 100
        lost_in_bursts = self.mean_loss_pct / 100 - isolated
        received = 1 - lost_in_bursts / density - isolated  # share of packets in state 1
        p31 = 1 / (density * self.mean_burst)
        p23 = 1 / self.good_run
        chances = {
            "p13": lost_in_bursts * p31 / received if received > 0 else 2.0,
            "p31": p31,
            "p32": p23 * (1 - density) / density,
            "p23": p23,
            "p14": isolated / received if received > 0 else 2.0,
        }
        return {name: 100 * chance for name, chance in chances.items()}

    @property
    def memory(self) -> float:
        chances = self.netem_pct
        return max(0.0, 1 - (chances["p13"] + chances["p31"] * self.burst_density_pct / 100) / 100)

    @model_validator(mode="after")
    def _reachable(self) -> LossStatesSpec:
        if self.isolated_loss_pct >= self.mean_loss_pct:
            raise ValueError(
                f"loss_states: isolated_loss_pct ({self.isolated_loss_pct:g}) leaves nothing of mean_loss_pct"
                f" ({self.mean_loss_pct:g}) to bursts: lower it, or use loss_pct for losses that all stand alone"
            )
        chances = self.netem_pct
        sums = {"a received packet": ("p13", "p14"), "a packet lost in a burst": ("p31", "p32")}
        for what, names in sums.items():
            total = sum(chances[name] for name in names)
            if total > 100 + 1e-9:
                raise ValueError(
                    f"loss_states: no chain has these figures ({what} would be left with {total:.3g} %): raise"
                    " mean_burst or burst_density_pct, or lower mean_loss_pct or isolated_loss_pct"
                )
        return self


class SlotSpec(Strict):
    """Packets leave in slots, as on a radio that gets its turn: what has come waits for the next one.

    The time between slots lies between `min_ms` and `max_ms`, or is `mean_ms` with `jitter_ms` of a distribution. A
    slot takes at most `packets` and `bytes`, where given.
    """

    min_ms: float | None = Field(default=None, gt=0, le=60_000)
    max_ms: float | None = Field(default=None, gt=0, le=60_000)
    mean_ms: float | None = Field(default=None, gt=0, le=60_000)
    jitter_ms: float = Field(default=0.0, ge=0)
    distribution: Literal["uniform", "normal", "pareto", "paretonormal"] = "uniform"
    packets: int | None = Field(default=None, ge=1)
    bytes: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_way_or_the_other(self) -> SlotSpec:
        if (self.min_ms is None) == (self.mean_ms is None):
            raise ValueError("slot: give min_ms (and max_ms), or mean_ms (and jitter_ms, distribution)")
        if self.mean_ms is None and (self.jitter_ms or self.distribution != "uniform"):
            raise ValueError("slot: jitter_ms and distribution go with mean_ms, not with min_ms and max_ms")
        if self.mean_ms is not None and (self.max_ms is not None or self.jitter_ms > self.mean_ms):
            raise ValueError("slot: max_ms goes with min_ms, and jitter_ms may not be larger than mean_ms")
        if self.min_ms is not None and self.max_ms is not None and self.max_ms < self.min_ms:
            raise ValueError(f"slot: max_ms ({self.max_ms:g}) is less than min_ms ({self.min_ms:g})")
        if self.distribution != "uniform" and not self.jitter_ms:
            raise ValueError(f"slot: distribution '{self.distribution}' does nothing without jitter_ms: give both")
        return self

    @property
    def bounds_ms(self) -> tuple[float, float]:
        """Of the time between two slots, but for the tails of a distribution; anything between is as likely in a
        uniform one."""
        if self.mean_ms is not None:
            return self.mean_ms - self.jitter_ms, self.mean_ms + self.jitter_ms
        return self.min_ms or 0.0, self.max_ms or self.min_ms or 0.0

    @property
    def longest_ms(self) -> float:
        return self.bounds_ms[1]
