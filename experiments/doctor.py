"""What this machine can do for an experiment: link, models, probes, room; and removing what a killed run left."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netem.doctor import diagnose as diagnose_links
from netem.journal import clean_leftovers
from netem.profiles import list_profiles
from nodes.engine import EngineError
from nodes.engine.make import list_models
from nodes.probes import find_probes

ROOM_BYTES = 1 << 30
TOOL_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Tool:
    """A program that only tests use: any of `names`, from the Debian package, and what is not tried without it."""

    names: tuple[str, ...]
    package: str
    tried: str


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TEST_TOOLS = (
    Tool(("shellcheck",), "shellcheck", "the shell scripts' hygiene"),
    Tool(("sshd",), "openssh-server", "runs on two machines (it starts a server: think before)"),
    Tool(BROWSERS, "chromium", "the report page as a browser draws it"),
)


def diagnose() -> list[dict[str, Any]]:
    """Records `{name, ok, detail, remedy}`."""
    return [_python(), *diagnose_links(), _models(), *_probes(), _room(), _tests()]


def clean_up() -> list[str]:
    """Undo what dead labs left; returns a line for each."""
    cleaned = clean_leftovers()
    return [f"removed what lab {name} left" for name in cleaned] or ["nothing was left behind"]


def profile_records() -> list[dict[str, Any]]:
    """The link profiles as flat rows."""
    return [
        {"name": profile["name"], "title": profile["title"], **_numbers(profile["link"]), "source": profile["source"]}
        for profile in list_profiles()
    ]


def _numbers(link: dict[str, Any]) -> dict[str, str]:
    def text(direction: dict[str, Any]) -> str:
        return ", ".join(f"{key} {value}" for key, value in direction.items())

    common = {key: value for key, value in link.items() if key not in ("up", "down")}
    return {"up": text({**common, **link.get("up", {})}), "down": text({**common, **link.get("down", {})})}


def _tests() -> dict[str, Any]:
    """What `make test` cannot try here, besides what the findings above say of links and probes."""
    missing = [tool for tool in TEST_TOOLS if not any(shutil.which(name, path=TOOL_PATH) for name in tool.names)]
    untried = "; ".join(f"{tool.names[0]}: {tool.tried}" for tool in missing)
    remedy = f"apt install {' '.join(tool.package for tool in missing)}" if missing else ""
    detail = f"not tried without {untried}" if missing else "every tool is here"
    return {"name": "tools of the tests", "ok": not missing, "detail": detail, "remedy": remedy}


def _python() -> dict[str, Any]:
    new_enough = sys.version_info >= (3, 10)
    remedy = "" if new_enough else "install Python 3.10 or newer"
    return {"name": "python", "ok": new_enough, "detail": ".".join(map(str, sys.version_info[:3])), "remedy": remedy}


def _models() -> dict[str, Any]:
    try:
        names = ", ".join(str(model["name"]) for model in list_models())
        return {"name": "bundled models", "ok": True, "detail": names, "remedy": ""}
    except EngineError as error:
        return {"name": "bundled models", "ok": False, "detail": str(error), "remedy": "clone the repository again"}


def _probes() -> list[dict[str, Any]]:
    return [
        {
            "name": f"probe {finding.probe}",
            "ok": finding.usable,
            "detail": f"{finding.status}: {finding.detail}",
            "remedy": finding.remedy,
        }
        for finding in find_probes()
    ]


def _room() -> dict[str, Any]:
    free = shutil.disk_usage(Path.cwd()).free
    return {
        "name": "disk",
        "ok": free > ROOM_BYTES,
        "detail": f"{free / 1e9:.1f} GB free here",
        "remedy": "" if free > ROOM_BYTES else "make room, or name another folder with --out",
    }
