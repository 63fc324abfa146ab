"""For all tests."""

from __future__ import annotations

import signal

# A shell starts a background job (`make test &`) with SIGINT ignored, and what a test starts would ignore it as well.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
