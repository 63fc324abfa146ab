"""Colours, one place for the page and for the figures: a system keeps its own in every plot and every run.

The systems' hues follow Paul Tol's schemes, which stay apart for colour-blind eyes; symbols and names say the same
again, so that nothing rests on colour alone. Each colour has a form for light and one for dark paper.
"""

from __future__ import annotations

from collections.abc import Sequence

SYSTEM_COLOURS = (  # light, dark
    ("#5c6470", "#aeb6c2"),
    ("#882255", "#d873a4"),
    ("#8a8a1f", "#c9c95a"),
    ("#cc5566", "#ee8d9b"),
    ("#d27d00", "#f2ab45"),
    ("#3b2f9c", "#9d94f2"),
    ("#1f8fc9", "#7cc7ee"),
    ("#2a9d8a", "#62d3c0"),
    ("#aa4499", "#dd8ccb"),
    ("#117733", "#55c37b"),
    ("#9a5b2e", "#d9a076"),
    ("#00707c", "#49b8c4"),
)
KEPT = {  # systems that everybody compares with: the same in every report, whatever else is in it
    "device_ar": 0,
    "edge_ar": 1,
    "colocated_sd": 2,
    "dsd": 3,
    "dsd_sparse": 4,
    "dssd": 5,
    "dssd_lookahead": 6,
    "dssd_sampled": 7,
    "coupled": 8,
    "token_match": 9,
}
SYMBOLS = (  # plotly's name, matplotlib's
    ("circle", "o"),
    ("square", "s"),
    ("diamond", "D"),
    ("triangle-up", "^"),
    ("triangle-down", "v"),
    ("cross", "P"),
    ("x", "X"),
    ("pentagon", "p"),
    ("star", "*"),
    ("hexagon", "h"),
    ("triangle-left", "<"),
    ("triangle-right", ">"),
)
PARTS = {  # of a round, in the order of time: label, light, dark
    "draft": ("draft", "#4477aa", "#6c9bd2"),
    "encode": ("encode", "#7cc4e0", "#a9dcf0"),
    "network": ("network", "#dd7a3a", "#f0965c"),
    "network_up": ("network up", "#dd7a3a", "#f0965c"),
    "queue": ("queue", "#9a9a9a", "#8d949e"),
    "verify": ("verify", "#228833", "#4cb863"),
    "edge_other": ("edge, other", "#a6c98c", "#7fa468"),
    "network_down": ("network down", "#e3b62f", "#f2d36b"),
    "resolve": ("resolve", "#aa3377", "#dc7cae"),
    "edge": ("waiting for the edge", "#d5d9df", "#59636f"),
    "lookahead": ("draft ahead", "#a9c3e6", "#47689a"),
    "idle": ("idle", "#e4e7eb", "#363d47"),
}


def system_slots(systems: Sequence[str]) -> dict[str, int]:
    """Each system's place in the palette; those without a kept one take what is free, in their order."""
    slots = {name: KEPT[name] for name in systems if name in KEPT}
    free = [slot for slot in range(len(SYSTEM_COLOURS)) if slot not in slots.values()]
    free.sort(key=lambda slot: slot in KEPT.values())
    for i, name in enumerate(name for name in systems if name not in KEPT):
        slots[name] = free[i] if i < len(free) else i % len(SYSTEM_COLOURS)
    return slots


def css() -> str:
    """The palette as custom properties, for both kinds of paper; plots say `var(--system-3)` and the page looks it
    up when it draws."""
    schemes = []
    for column in (0, 1):
        rules = [f"--system-{slot}: {pair[column]};" for slot, pair in enumerate(SYSTEM_COLOURS)]
        rules += [f"--part-{part}: {row[1 + column]};" for part, row in PARTS.items()]
        schemes.append(" ".join(rules))
    light, dark = schemes
    return (
        f":root {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {dark} }} }}\n"
        f":root[data-theme=dark] {{ {dark} }}\n"
    )
