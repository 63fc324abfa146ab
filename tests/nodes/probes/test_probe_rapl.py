"""RAPL against the folder trees that Linux shows on real processors."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from nodes.probes import make_probe, rapl

RANGE_UJ = 262_143_328_850  # of an Intel client package


class Powercap:
    """A powercap folder with one zone per (directory, name); `advance` is time passing."""

    def __init__(self, root, zones):
        self.root, self.zones = root, zones
        for number, (zone, name) in enumerate(zones.items()):
            (root / zone).mkdir(parents=True)
            (root / zone / "name").write_text(name + "\n")
            (root / zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            self.set(zone, 10**9 * (number + 1))

    def set(self, zone, energy_uj):
        (self.root / zone / "energy_uj").write_text(f"{energy_uj}\n")

    def get(self, zone):
        return int((self.root / zone / "energy_uj").read_text())

    def advance(self, joules=0.5, only=None):
        for zone in self.zones:
            if only is None or zone in only:
                self.set(zone, (self.get(zone) + int(joules * 1e6)) % RANGE_UJ)


CLIENT = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "uncore",
    "intel-rapl:1": "psys",
    "intel-rapl-mmio:0": "package-0",
}
SERVER = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:1:0": "dram",
}
AMD_TWO_DIES = {
    "intel-rapl:0": "package-0-die-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:1": "package-0-die-1",
    "intel-rapl:1:0": "core",
}


@pytest.fixture
def tried(tmp_path, monkeypatch):
    """`tried(zones, ...)` is (folder, probe, finding) after a trial during which the counters moved."""
    made = []

    def try_it(zones, moving=None, start_uj=None, **options):
        folder = Powercap(tmp_path / "powercap", zones)
        if start_uj is not None:
            folder.set("intel-rapl:0", start_uj)
        for zone in zones:
            if zone.startswith("intel-rapl:1") and "die" in zones["intel-rapl:0"]:
                folder.set(zone, folder.get(zone.replace("intel-rapl:1", "intel-rapl:0")) + 200)
        probe = make_probe("rapl", root=folder.root, **options)
        made.append(probe)
        monkeypatch.setattr(rapl.time, "sleep", lambda s: folder.advance(only=moving))
        return folder, probe, probe.trial()

    yield try_it
    for probe in made:
        probe.close()


def totals(finding):
    return [channel.name for channel in finding.channels if channel.total]


def joules(probe):
    return {reading.channel: reading.value for reading in probe.read() if reading.unit == "j"}


def test_client_labels_and_duplicates(tried):
    _, _, finding = tried(CLIENT)
    assert (finding.status, finding.scope) == ("measured", "cpu")
    names = [channel.name for channel in finding.channels if channel.unit == "j"]
    assert names == ["package-0", "package-0.core", "package-0.uncore", "psys"]
    assert totals(finding) == ["package-0"]  # psys contains it, core and uncore are inside it
    assert "intel-rapl-mmio:0 dropped: package-0 again" in finding.detail


def test_server_has_two_packages_and_memory_aside(tried):
    _, _, finding = tried(SERVER)
    assert totals(finding) == ["package-0", "package-1"]


def test_memory_counts_when_asked(tried):
    _, _, finding = tried(SERVER, count_dram=True)
    assert totals(finding) == ["package-0", "package-0.dram", "package-1", "package-1.dram"]


def test_amd_dies_that_show_one_counter_count_once(tried):
    _, _, finding = tried(AMD_TWO_DIES)
    assert totals(finding) == ["package-0-die-0"] and "intel-rapl:1 dropped" in finding.detail


def test_joules_follow_the_counter_and_wrap(tried):
    folder, probe, _ = tried(CLIENT, start_uj=RANGE_UJ - 600_000)  # the trial takes 0.5 J of it
    start = joules(probe)["package-0"]
    for joules_so_far in (0.3, 0.6, 0.9):
        folder.advance(0.3)
        assert joules(probe)["package-0"] - start == pytest.approx(joules_so_far, abs=1e-6)
    assert folder.get("intel-rapl:0") < 1_000_000  # it did wrap


def test_impossible_corrections_are_dropped_and_counted(tried):
    folder, probe, _ = tried(CLIENT)
    start = joules(probe)["package-0"]
    folder.set("intel-rapl:0", 5)  # the counter was reset: no wrap could be this far
    after = {reading.channel: reading.value for reading in probe.read()}
    assert after["package-0"] == start and after["impossible_steps"] == 1
    folder.advance(0.1)
    assert joules(probe)["package-0"] - start == pytest.approx(0.1, abs=1e-6)


def test_unknown_range_never_goes_negative(tried, tmp_path):
    folder, probe, _ = tried(CLIENT)
    for domain in probe.domains:
        domain.range_uj = 0
    before = joules(probe)
    for zone in folder.zones:
        folder.set(zone, 1)
    assert joules(probe) == before


def test_an_unreadable_range_is_no_range(tmp_path, monkeypatch):
    folder = Powercap(tmp_path, CLIENT)
    for zone in CLIENT:
        (tmp_path / zone / "max_energy_range_uj").unlink()
    monkeypatch.setattr(rapl.time, "sleep", lambda s: folder.advance())
    probe = make_probe("rapl", root=tmp_path)
    assert probe.trial().status == "measured" and probe.domains[0].range_uj == 0
    probe.close()


def test_a_package_that_stands_still_is_not_counting(tried):
    _, _, finding = tried(CLIENT, moving={"intel-rapl:1"})
    assert finding.status == "unsupported" and "stands still" in finding.detail and finding.remedy


def test_an_idle_graphics_domain_is_kept(tried):
    _, _, finding = tried(CLIENT, moving={"intel-rapl:0", "intel-rapl:0:0"})
    assert "package-0.uncore" in [channel.name for channel in finding.channels]


def test_unplugged_or_garbled_is_left_out_of_the_tick(tried):
    folder, probe, _ = tried(CLIENT)
    (folder.root / "intel-rapl:0" / "energy_uj").write_text("")
    assert "package-0" not in joules(probe) and "psys" in joules(probe)


def test_nothing_there(tmp_path):
    finding = make_probe("rapl", root=tmp_path).trial()
    assert finding.status == "unsupported" and "modprobe" in finding.remedy


def test_denied_to_an_ordinary_user_names_the_line_to_type():
    """Root reads whatever the mode says, so the reading happens as nobody."""
    root = Path(tempfile.mkdtemp(prefix="powercap-"))
    try:
        Powercap(root, CLIENT)
        root.chmod(0o755)
        for zone in CLIENT:
            (root / zone / "energy_uj").chmod(0o400)
        if os.getuid() != 0:
            for zone in CLIENT:
                (root / zone / "energy_uj").chmod(0o000)
        as_root = os.geteuid() == 0
        if as_root:
            os.seteuid(65534)
        try:
            finding = make_probe("rapl", root=root).trial()
        finally:
            if as_root:
                os.seteuid(0)
        assert finding.status == "denied"
        assert finding.remedy == f"sudo chmod a+r {root}/intel-rapl*/energy_uj"
    finally:
        shutil.rmtree(root)
