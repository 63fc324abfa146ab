"""A link on a real interface, between two machines: only what goes to and comes from one peer, and never for good by
accident.

    shaping    what is asked for, and what was found on the interface
    found      looks at the interface: is it free, what has to be put back, where does SSH come in
    plan       both -> commands and their undo, as pure data
    interface  shape, renew, confirm, restore, status
    guard.sh   the dead-man timer: a shell process that undoes everything when its time comes
"""

from netem.physical.found import ssh_ports
from netem.physical.interface import (
    DEAD_MAN_S,
    confirm,
    renew,
    restore,
    shape,
    shaped_interfaces,
    status,
)
from netem.physical.shaping import SSH_PORT, Shaping

__all__ = [
    "DEAD_MAN_S",
    "SSH_PORT",
    "Shaping",
    "confirm",
    "renew",
    "restore",
    "shape",
    "shaped_interfaces",
    "ssh_ports",
    "status",
]
