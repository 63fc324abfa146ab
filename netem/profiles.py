"""Named links, one YAML file each: `title`, `source` (where the numbers come from) and `link` (a LinkSpec's
keys).

A user's own file is used by giving its path instead of a name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "profiles"
KEYS = {"title", "source", "link"}


def profile_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> dict[str, Any]:
    """`{name, title, source, link}` of a named profile or a YAML file. Raises ValueError saying what is
    wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(
            f"no link profile '{name}': known are {', '.join(profile_names())}, or give a .yaml file's path"
        )
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"link profile {path} is not YAML: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("link"), dict):
        raise ValueError(f"link profile {path} needs a mapping `link:` with a link's keys (and `title`, `source`)")
    unknown = sorted(set(data) - KEYS)
    if unknown:
        raise ValueError(f"link profile {path} has unknown keys {', '.join(unknown)}: known are {', '.join(KEYS)}")
    if "profile" in data["link"]:
        raise ValueError(f"link profile {path} starts from another profile: write its numbers out instead")
    _from_the_folder(data["link"], path.parent)
    return {
        "name": path.stem,
        "title": data.get("title", ""),
        "source": data.get("source", ""),
        "link": data["link"],
    }


def _from_the_folder(link: dict[str, Any], folder: Path) -> None:
    """A trace beside the profile is named by a path relative to it."""
    for place in (link, link.get("up"), link.get("down")):
        if isinstance(place, dict) and place.get("trace"):
            trace = place["trace"] if isinstance(place["trace"], dict) else {"file": place["trace"]}
            if isinstance(trace.get("file"), str):
                trace = {**trace, "file": str(Path(folder, Path(trace["file"]).expanduser()).resolve())}
            place["trace"] = trace


def list_profiles() -> list[dict[str, Any]]:
    """All shipped profiles, each with its numbers and source, sorted by name."""
    return [load_profile(name) for name in profile_names()]
