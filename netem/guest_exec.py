"""Becomes the given command, prepared for a user-mode Linux guest. Run as a script, standard library only.

    python -I -S guest_exec.py COMMAND...

* Dies with its parent: should the lab's owner be killed, no guest stays behind.
* Runs ahead of ordinary processes (nice -10, where allowed), so that a busy machine does not delay its timers.
* Its address space is not randomised. With it, about one boot in five failed here: the first fork of the guest, or its
  first process. Without, none in a hundred; and the memory it maps beside its own is then always the same.
* On processors with AMX the guest is denied the extended register state. User-mode Linux up to 6.12 keeps 2,696 bytes
  for it, AMX makes it 11,008, and the host then refuses to load it back: the guest dies at its first process. With the
  question itself refused (EINVAL by a seccomp filter) it falls back to the SSE registers, and its programs are told by
  GLIBC_TUNABLES (see uml.py) not to use more.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
ADDR_NO_RANDOMIZE = 0x0040000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # classic BPF
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 22  # 22: EINVAL
AUDIT_ARCH_X86_64, NR_PTRACE, PTRACE_GETREGSET, NT_X86_XSTATE = 0xC000003E, 101, 0x4204, 0x202
OFFSET_NR, OFFSET_ARCH, OFFSET_ARG0, OFFSET_ARG2 = 0, 4, 16, 32  # of struct seccomp_data
NICENESS = -10


def host_has_amx() -> bool:
    with open("/proc/cpuinfo") as cpuinfo:
        return any("amx_tile" in line.split() for line in cpuinfo if line.startswith("flags"))


def refuse_extended_registers(libc: ctypes.CDLL) -> None:
    """From now on, ptrace(PTRACE_GETREGSET, …, NT_X86_XSTATE) answers EINVAL, here and in every child."""
    wanted = (
        (OFFSET_ARCH, AUDIT_ARCH_X86_64),
        (OFFSET_NR, NR_PTRACE),
        (OFFSET_ARG0, PTRACE_GETREGSET),
        (OFFSET_ARG2, NT_X86_XSTATE),
    )
    program = []
    for index, (offset, value) in enumerate(wanted):
        to_allow = 2 * (len(wanted) - index) - 1
        program += [(LOAD, 0, 0, offset), (JUMP_IF_EQUAL, 0, to_allow, value)]
    program += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        sys.exit(f"cannot set a seccomp filter: {os.strerror(ctypes.get_errno())}")


def main(argv: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    except PermissionError:
        pass  # without root the guest runs like everything else; the link's check decides whether that will do
    libc.personality(ADDR_NO_RANDOMIZE)
    if host_has_amx():
        refuse_extended_registers(libc)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
