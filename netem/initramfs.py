"""The guest's file system: busybox; tc, ip, ethtool and their libraries; qdiscs; an init of some ten lines.

Built from what is installed on this machine, once per set of inputs, and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from netem import batch
from netem.apply import SYSTEM_PATH
from netem.errors import BackendError

TOOLS = ("tc", "ip", "ethtool")
MODULES = ("sch_netem", "sch_tbf", "sch_plug")
READY, DONE = "=dssd-ready", "=dssd-done"
BATCHES = "\n".join(  # a console each, on which the tool stays (see batch.py)
    f"""/bin/busybox mknod /dev/tty{number} c 4 {number}
exec {number + 2}<>/dev/tty{number}
/bin/busybox stty -echo -onlcr <&{number + 2}
/sbin/{" ".join(batch.START[tool])} <&{number + 2} >&{number + 2} 2>&1 &"""  # held open: what comes early is not lost
    for number, tool in enumerate(batch.TOOLS, 1)
)
INIT = f"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
for module in /modules/*.ko; do /bin/busybox insmod $module; done
/bin/busybox stty -echo -onlcr
{BATCHES}
echo {READY}
while read -r line; do eval "$line" 2>&1; echo "{DONE} $?"; done
/bin/busybox poweroff -f
"""
INSTALL = "apt install user-mode-linux busybox-static iproute2 ethtool"


def find_tool(name: str) -> Path | None:
    found = shutil.which(name, path=SYSTEM_PATH + os.environ.get("PATH", ""))
    return Path(found) if found else None


def guest_version() -> str:
    """Of the installed user-mode Linux, such as '6.1.176'; '' without one."""
    kernel = find_tool("linux.uml")
    if kernel is None:
        return ""
    return subprocess.run([kernel, "--version"], capture_output=True, text=True, check=False).stdout.strip()


def inputs() -> dict[str, Path]:
    """Path in the guest -> file of this machine. Raises BackendError naming what is missing."""
    kernel, busybox = find_tool("linux.uml"), find_tool("busybox")
    missing = [name for name, path in (("linux.uml", kernel), ("busybox", busybox)) if path is None]
    missing += [name for name in TOOLS if find_tool(name) is None]
    if missing or kernel is None or busybox is None:
        raise BackendError(f"the user-mode Linux router needs {', '.join(missing)}: {INSTALL}")
    if _libraries(busybox):
        raise BackendError(f"{busybox} is not static, the guest cannot start it: apt install busybox-static")
    version = guest_version()
    files = {"bin/busybox": busybox}
    for name in MODULES:
        found = sorted(Path(f"/usr/lib/uml/modules/{version}").rglob(f"{name}.ko"))
        if not found:
            raise BackendError(
                f"no {name}.ko under /usr/lib/uml/modules/{version}: apt install --reinstall user-mode-linux"
            )
        files[f"modules/{name}.ko"] = found[0]
    for name in TOOLS:
        tool = find_tool(name)
        assert tool is not None
        files[f"sbin/{name}"] = tool
        files.update({str(library).lstrip("/"): library for library in _libraries(tool)})
    for folder in [*sorted(Path("/usr/lib").glob("*/tc")), Path("/usr/lib/tc"), Path("/lib/tc")]:
        files.update({str(table).lstrip("/"): table for table in folder.glob("*.dist")})  # jitter distributions
    return files


def initramfs() -> Path:
    """The image, built if this set of inputs has not been seen. Raises BackendError (see `inputs`)."""
    files = inputs()
    seen = "\n".join(f"{name} {path} {path.stat().st_size} {path.stat().st_mtime_ns}" for name, path in files.items())
    key = hashlib.sha256((INIT + seen).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dssd"
    image = folder / f"router-{key}.cpio"
    if not image.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{image.name}.{os.getpid()}"
        draft.write_bytes(archive({name: path.read_bytes() for name, path in files.items()}))
        draft.rename(image)
    return image


def archive(programs: Mapping[str, bytes]) -> bytes:
    """A cpio archive ("newc") of these files, all executable, with INIT, the console and their folders."""
    folders = {"proc", "sys", "dev", "tmp", "run"}
    for name in programs:
        folders.update(str(parent) for parent in Path(name).parents if str(parent) != ".")
    entries = [_entry(name, stat.S_IFDIR | 0o755) for name in sorted(folders)]
    entries += [
        _entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        _entry("dev/null", stat.S_IFCHR | 0o666, device=(1, 3)),
    ]
    entries += [_entry(name, stat.S_IFREG | 0o755, data) for name, data in sorted(programs.items())]
    entries += [_entry("init", stat.S_IFREG | 0o755, INIT.encode()), _entry("TRAILER!!!", 0)]
    return b"".join(entries)


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One record: magic, 13 fields of eight hexadecimal digits, name and data, each padded to four bytes."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def _libraries(program: Path) -> list[Path]:
    """Shared libraries a program needs, loader included; none for a static one."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        return []
    return [Path(word) for line in listing.stdout.splitlines() for word in line.split() if word.startswith("/")]
