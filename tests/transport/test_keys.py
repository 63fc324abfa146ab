import os
import stat

import pytest

from transport.keys import KeysError, lab_keys, load_device_keys, load_edge_keys, make_keys
from transport.zmq_link import ZmqDeviceLink, ZmqEdgeLink


def test_files_make_a_working_pair(tmp_path):
    folder = tmp_path / "keys"
    made = {path.name for path in make_keys(folder)}
    assert made == {"edge.key", "edge.pub", "device.key", "device.pub", "devices.allow"}
    for name in ("edge.key", "device.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    with ZmqEdgeLink("tcp://127.0.0.1:*", keys=load_edge_keys(folder)) as edge:
        with ZmqDeviceLink(edge.endpoint, keys=load_device_keys(folder), identity=b"d") as device:
            device.send([b"x"])
            assert edge.receive(20).frames == [b"x"]


def test_each_machine_makes_its_own_and_only_public_keys_travel(tmp_path):
    make_keys(tmp_path / "edge", roles=["edge"])
    make_keys(tmp_path / "device", roles=["device"])
    (tmp_path / "device" / "edge.pub").write_bytes((tmp_path / "edge" / "edge.pub").read_bytes())
    assert load_edge_keys(tmp_path / "edge").allowed == frozenset()
    public = (tmp_path / "device" / "device.pub").read_text().splitlines()[1]
    with (tmp_path / "edge" / "devices.allow").open("a") as allow:
        allow.write(f"\n{public} jetson in the corner\n")
    device = load_device_keys(tmp_path / "device")
    assert load_edge_keys(tmp_path / "edge").allowed == {device.public}
    assert device.edge_public == load_edge_keys(tmp_path / "edge").public


def test_never_overwritten(tmp_path):
    make_keys(tmp_path, roles=["device"])
    before = (tmp_path / "device.key").read_bytes()
    with pytest.raises(KeysError, match=r"device\.key exists"):
        make_keys(tmp_path)
    assert (tmp_path / "device.key").read_bytes() == before
    assert not (tmp_path / "edge.key").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_secret_others_can_read_is_refused(tmp_path, mode):
    make_keys(tmp_path)
    (tmp_path / "edge.key").chmod(mode)
    with pytest.raises(KeysError, match=rf"chmod 600 {tmp_path}/edge\.key"):
        load_edge_keys(tmp_path)


def test_missing_and_malformed_files_are_named(tmp_path):
    with pytest.raises(KeysError, match=r"device\.key.*dssd keys"):
        load_device_keys(tmp_path)
    make_keys(tmp_path)
    for text in ("short\n", "x" * 41 + "\n", "~" * 40 + "\n", "é" * 20 + "\n"):
        (tmp_path / "edge.pub").write_text(text, encoding="utf-8")
        with pytest.raises(KeysError, match=r"edge\.pub:1 is no CURVE key"):
            load_device_keys(tmp_path)
    (tmp_path / "edge.pub").write_text("# nothing\n")
    with pytest.raises(KeysError, match="holds 0 keys"):
        load_device_keys(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(KeysError, match="cannot write keys"):
        make_keys(tmp_path / "keys")


def test_secrets_do_not_show_in_reprs():
    for keys in lab_keys():
        assert keys.secret.decode() not in repr(keys)
