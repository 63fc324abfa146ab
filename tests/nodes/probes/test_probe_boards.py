"""Sensors that Linux shows as files, against trees laid out as real boards lay them out."""

import pytest

from nodes.probes import make_probe

TEGRA = "firmware/devicetree/base/compatible"


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def ina3221(chip, rails, nc=()):
    """`rails`: {channel: (label, mV, mA)} as the kernel's driver shows them, with its sum on channel 7."""
    files = {f"{chip}/name": "ina3221", f"{chip}/in7_label": "sum of shunt voltages", f"{chip}/in7_input": 5}
    for channel, (label, millivolts, milliamps) in rails.items():
        files |= {
            f"{chip}/in{channel}_label": label,
            f"{chip}/in{channel}_input": millivolts,
            f"{chip}/curr{channel}_input": milliamps,
        }
    for channel in nc:
        files |= {f"{chip}/in{channel}_label": "NC", f"{chip}/in{channel}_input": 4900}
        files |= {f"{chip}/curr{channel}_input": 0}
    return files


ORIN_NANO = (
    {TEGRA: "nvidia,p3768-0000+p3767-0003\0nvidia,tegra234"}
    | ina3221(
        "class/hwmon/hwmon1",
        {1: ("VDD_IN", 5000, 1200), 2: ("VDD_CPU_GPU_CV", 5000, 300), 3: ("VDD_SOC", 5000, 250)},
    )
    | {
        "class/hwmon/hwmon1/update_interval": 200,
        "class/hwmon/hwmon2/name": "ucsi_source_psy_2_0008",
        "class/hwmon/hwmon2/in1_input": 5000,
        "class/hwmon/hwmon2/curr1_input": 3000,
    }
)
AGX_ORIN = (
    {TEGRA: "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234"}
    | ina3221(
        "class/hwmon/hwmon3",
        {1: ("VDD_GPU_SOC", 20000, 200), 2: ("VDD_CPU_CV", 20000, 50), 3: ("VIN_SYS_5V0", 5000, 800)},
    )
    | ina3221("class/hwmon/hwmon4", {2: ("VDDQ_VDD2_1V8AO", 5000, 80)}, nc=(1, 3))
)
XAVIER_JETPACK_4 = {
    TEGRA: "nvidia,p2972-0000\0nvidia,tegra194",
    **{
        f"bus/i2c/drivers/ina3221x/1-0040/iio:device0/{name}": value
        for name, value in {
            "rail_name_0": "GPU",
            "in_power0_input": 1500,
            "rail_name_1": "CPU",
            "in_power1_input": 700,
            "rail_name_2": "SOC",
            "in_power2_input": 900,
        }.items()
    },
}
THOR = {
    TEGRA: "nvidia,tegra264",
    "class/hwmon/hwmon0/name": "ina238",
    "class/hwmon/hwmon0/in1_label": "VIN",
    "class/hwmon/hwmon0/power1_input": 31_000_000,
} | ina3221("class/hwmon/hwmon1", {1: ("VDD_GPU", 20000, 300), 2: ("VDD_CPU_SOC_MSS", 20000, 200)})


@pytest.fixture
def clock(monkeypatch):
    """`clock(seconds)` lets that much time pass for the probes."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def values(probe):
    return {reading.channel: reading.value for reading in probe.read()}


def counted(finding):
    return [channel.name for channel in finding.channels if channel.total]


@pytest.mark.parametrize(
    ("files", "total", "watts"),
    [
        (ORIN_NANO, ["VDD_IN"], 6.0),
        (AGX_ORIN, ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"], 4 + 1 + 4),  # the memory's 0.4 W is in the last
        (XAVIER_JETPACK_4, ["GPU", "CPU", "SOC"], 3.1),
        (THOR, ["VIN"], 31.0),
    ],
    ids=["orin_nano", "agx_orin", "xavier_jetpack_4", "thor"],
)
def test_jetson_modules(tmp_path, clock, files, total, watts):
    probe = make_probe("jetson", root=tree(tmp_path, files))
    finding = probe.trial()
    assert (finding.status, finding.scope) == ("measured", "node")
    assert counted(finding) == total
    before = values(probe)
    clock(10.0)
    after = values(probe)
    assert sum(after[rail] - before[rail] for rail in total) == pytest.approx(10 * watts)
    assert sum(after[f"{rail}.power"] for rail in total) == pytest.approx(watts)
    probe.close()


def test_jetson_keeps_the_vendors_labels_and_skips_what_is_no_rail(tmp_path):
    finding = make_probe("jetson", root=tree(tmp_path, ORIN_NANO)).trial()
    names = {channel.name for channel in finding.channels if channel.unit == "j"}
    assert names == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}  # nothing collapsed, no sum, no USB-C supply
    assert finding.resolution_ms == 200


def test_a_jetsons_sensors_belong_to_one_probe(tmp_path):
    assert make_probe("hwmon", root=tree(tmp_path / "jetson", AGX_ORIN)).trial().status == "unsupported"
    same_chips = {name: content for name, content in AGX_ORIN.items() if name != TEGRA}
    assert make_probe("jetson", root=tree(tmp_path / "other", same_chips)).trial().status == "unsupported"


def test_a_rail_that_answers_eio_is_left_out(tmp_path, monkeypatch):
    probe = make_probe("jetson", root=tree(tmp_path, AGX_ORIN))
    from nodes.probes.hwmon import Rail

    value = Rail._value

    def broken(rail):
        if rail.label == "VIN_SYS_5V0":
            raise OSError(5, "Input/output error")
        return value(rail)

    monkeypatch.setattr(Rail, "_value", broken)
    finding = probe.trial()
    assert "VIN_SYS_5V0 dropped" in finding.detail and "VIN_SYS_5V0" not in values(probe)
    assert counted(finding) == ["VDD_GPU_SOC", "VDD_CPU_CV", "VDDQ_VDD2_1V8AO"]  # now it is in no other


HWMON = {
    "class/hwmon/hwmon0/name": "coretemp",
    "class/hwmon/hwmon0/temp1_input": 45000,
    "class/hwmon/hwmon1/name": "ina226",
    "class/hwmon/hwmon1/power1_input": 2_500_000,
    "class/hwmon/hwmon2/name": "amd_energy",
    "class/hwmon/hwmon2/energy1_label": "Esocket0",
    "class/hwmon/hwmon2/energy1_input": 7_000_000,
    "class/hwmon/hwmon3/name": "power_meter",
    "class/hwmon/hwmon3/power1_average": 80_000_000,
}


def test_hwmon_records_all_and_counts_what_is_named(tmp_path, clock):
    root = tree(tmp_path, HWMON)
    assert counted(make_probe("hwmon", root=root).trial()) == []  # which rails add up, nobody said
    probe = make_probe("hwmon", root=root, total=["power_meter.power1"])
    finding = probe.trial()
    assert counted(finding) == ["power_meter.power1"] and finding.scope == "node"
    before = values(probe)
    clock(2.0)
    tree(root, {"class/hwmon/hwmon2/energy1_input": 9_000_000})
    after = values(probe)
    assert after["power_meter.power1"] - before["power_meter.power1"] == pytest.approx(160)
    assert after["ina226.power1"] - before["ina226.power1"] == pytest.approx(5)
    assert after["amd_energy.Esocket0"] - before["amd_energy.Esocket0"] == pytest.approx(2)


def test_two_chips_of_one_name_are_two_rails(tmp_path, clock):
    """One that fails takes no other along, and each counts what is its own."""
    chips = {f"class/hwmon/hwmon{i}/name": "ina226" for i in range(3)}
    root = tree(
        tmp_path, chips | {f"class/hwmon/hwmon{i}/power1_input": w for i, w in enumerate((5_000_000, "", 2_000_000))}
    )
    assert "ina226.power1#1" in make_probe("hwmon", root=root, total=["ina226.power1"]).trial().detail
    probe = make_probe("hwmon", root=root, total=["ina226.power1#1", "ina226.power1#3"])
    finding = probe.trial()
    assert counted(finding) == ["ina226.power1#1", "ina226.power1#3"] and "ina226.power1#2 dropped" in finding.detail
    before = values(probe)
    clock(2.0)
    after = values(probe)
    assert {name: after[name] - before[name] for name in counted(finding)} == pytest.approx(
        {"ina226.power1#1": 10, "ina226.power1#3": 4}
    )


def test_hwmon_names_the_rails_there_are(tmp_path):
    finding = make_probe("hwmon", root=tree(tmp_path, HWMON), total=["ina226.power9"]).trial()
    assert finding.status == "unsupported" and "ina226.power9" in finding.detail and "ina226.power1" in finding.detail


def test_a_sensor_that_goes_away_is_left_out(tmp_path):
    root = tree(tmp_path, HWMON)
    probe = make_probe("hwmon", root=root)
    probe.trial()
    (root / "class/hwmon/hwmon1/power1_input").write_text("")
    assert "ina226.power1" not in values(probe) and "power_meter.power1" in values(probe)


BAT = {
    "BAT0/type": "Battery",
    "BAT0/status": "Discharging",
    "BAT0/power_now": 9_500_000,
    "AC/type": "Mains",
    "AC/online": 0,
    "mouse/type": "Battery",
    "mouse/scope": "Device",
}


def test_battery(tmp_path, clock):
    probe = make_probe("battery", root=tree(tmp_path, BAT))
    finding = probe.trial()
    assert (finding.status, finding.scope) == ("measured", "node") and "mouse" not in finding.detail
    before = values(probe)["node"]
    clock(4.0)
    assert values(probe)["node"] - before == pytest.approx(38)
    tree(tmp_path, {"BAT0/status": "Charging"})
    clock(100.0)
    assert values(probe) == {}


def test_battery_that_shows_current_and_voltage(tmp_path):
    files = {
        "BAT1/type": "Battery",
        "BAT1/status": "Discharging",
        "BAT1/current_now": -800_000,
        "BAT1/voltage_now": 11_000_000,
    }
    probe = make_probe("battery", root=tree(tmp_path, files))
    probe.trial()
    assert values(probe)["power"] == pytest.approx(8.8)


def test_battery_on_the_charger(tmp_path):
    finding = make_probe("battery", root=tree(tmp_path, BAT | {"BAT0/status": "Full"})).trial()
    assert (finding.status, finding.remedy) == ("unsupported", "unplug the charger")


PMIC = """\
 3V7_WL_SW_A current(0)=0.05000000A
   3V3_SYS_A current(1)=0.40000000A
  VDD_CORE_A current(7)=2.50000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.72000000V
     EXT5V_V volt(24)=5.15000000V
      BATT_V volt(25)=0.00000000V
"""
PMIC_W = 0.05 * 3.7 + 0.4 * 3.3 + 2.5 * 0.72


@pytest.fixture
def vcgencmd(tmp_path):
    """A program that prints what it is given and ends with `code`."""

    def make(says, code=0):
        program = tmp_path / "vcgencmd"
        (tmp_path / "answer").write_text(says)
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\nexit {code}\n")
        program.chmod(0o755)
        return make_probe("rpi", command=[str(program), "pmic_read_adc"])

    return make


def test_raspberry_pi_5(vcgencmd):
    probe = vcgencmd(PMIC)
    finding = probe.trial()
    assert (finding.status, finding.scope) == ("measured", "node") and counted(finding) == ["rails"]
    assert {c.renewed_ms for c in finding.channels if c.unit == "j"} == {100}
    first = {r.channel: r for r in probe.read()}
    assert first["VDD_CORE.power"].value == pytest.approx(1.8)
    assert (first["rails"].status, first["board"].status) == ("measured", "estimated")
    second = values(probe)
    sum_j, board_j = second["rails"] - first["rails"].value, second["board"] - first["board"].value
    elapsed_s = sum_j / PMIC_W
    assert 0 < elapsed_s < 5
    assert board_j == pytest.approx((1.1451 * PMIC_W + 0.5879) * elapsed_s, rel=0.01)


def test_raspberry_pi_4_measures_no_current(vcgencmd):
    finding = vcgencmd('error=1 error_msg="Command not registered"', code=255).trial()
    assert finding.status == "unsupported" and "meter" in finding.remedy


def test_raspberry_pi_without_permission(vcgencmd):
    finding = vcgencmd("Can't open device file: /dev/vcio", code=255).trial()
    assert finding.status == "denied" and "usermod" in finding.remedy
