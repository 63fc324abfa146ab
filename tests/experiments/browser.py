"""A page in a real browser: drawn, acted upon, asked what became of it. Anything on its console is a failure."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from experiments.doctor import BROWSERS

pytest.importorskip("plotly", reason="the plots are plotly's: pip install plotly")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
IN_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"no browser here: none of {', '.join(BROWSERS)} is on the PATH"),
]
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
    "--virtual-time-budget=60000",
)  # fmt: skip
REPORTER = """
<script nonce="NONCE">
const done = setInterval(() => {
  if (document.body.dataset.drawn !== "all") return;
  clearInterval(done);
  ACTION
  setTimeout(() => {
    const find = (selector) => [...document.querySelectorAll(selector)];
    const place = document.createElement("pre");
    place.id = "result";
    place.textContent = JSON.stringify({
      errors: Number(document.body.dataset.errors),
      said: document.getElementById("errors").textContent,
      traces: Object.fromEntries(find("[data-drawn]:not(body)").map((plot) => [plot.id.slice(5), plot.data.length])),
      painted: find("[data-drawn]:not(body)").filter((plot) => plot.querySelector(".main-svg path")).length,
      wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      text: getComputedStyle(document.body).color,
      FINDINGS
    });
    document.body.append(place);
  }, 2500);
}, 50);
</script>
</body>
"""


def open_page(text: str, tmp_path: Path, action: str, findings: str, width: int) -> dict[str, Any]:
    """What is to be seen after `action`, JavaScript like `findings`: the fields to tell besides, from `find`."""
    nonce = re.search(r'<script nonce="(\w+)">', text)
    assert nonce and CHROMIUM
    script = REPORTER.replace("NONCE", nonce[1]).replace("ACTION", action).replace("FINDINGS", findings)
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", script), encoding="utf-8")
    argv = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [*argv, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=180, check=False
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert result, f"the page was not drawn: {done.stderr[-2000:]}"
    seen: dict[str, Any] = json.loads(unescape(result[1]))
    assert seen["errors"] == 0, seen["said"]
    return seen
