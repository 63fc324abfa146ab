"""Every file in transport/codecs, found by itself, under the same checks."""

import random

import numpy as np
import pytest

from transport.codecs import CodecError, codec_names, make_codec
from transport.messages import Encoded

VOCABS = (2, 50, 65_537, 151_936)


def rows(vocab_size):
    """Distributions of every shape: [V] float32 each, with a name."""
    chance = np.random.default_rng(vocab_size)

    def normalised(weights):
        return (weights / weights.sum(dtype=np.float64)).astype(np.float32)

    for spread in (0.1, 2.0, 8.0):
        yield f"softmax, spread {spread}", normalised(np.exp(spread * chance.standard_normal(vocab_size)))
    yield "uniform", normalised(np.ones(vocab_size))
    for place in (0, vocab_size // 2, vocab_size - 1):
        one_hot = np.zeros(vocab_size, np.float32)
        one_hot[place] = 1
        yield f"one-hot at {place}", one_hot
    few = np.zeros(vocab_size)
    few[chance.choice(vocab_size, min(20, vocab_size), replace=False)] = chance.random(min(20, vocab_size)) + 0.01
    yield "top-k sampled", normalised(few)
    tiny = np.full(vocab_size, 1e-40)
    tiny[1] = 1
    yield "subnormal tail", tiny.astype(np.float32)


CASES = [
    pytest.param(name, vocab_size, row, id=f"{name}, V={vocab_size}, {shape}")
    for name in codec_names()
    for vocab_size in VOCABS
    for shape, row in rows(vocab_size)
]


@pytest.mark.parametrize(("name", "vocab_size", "row"), CASES)
def test_both_ends_hold_the_same_distribution(name, vocab_size, row):
    device, edge = make_codec(name, vocab_size), make_codec(name, vocab_size)
    before = row.copy()
    encoded = device.encode(row)
    decoded = edge.decode(Encoded(bytes(encoded.data)))
    assert (row == before).all(), "encode must not write into the row"
    assert decoded.shape == (vocab_size,) and decoded.dtype == np.float32
    assert np.isfinite(decoded).all() and decoded.min() >= 0
    assert decoded.sum(dtype=np.float64) == pytest.approx(1, abs=1e-4)
    assert (device.decode(encoded) == decoded).all()
    again = device.encode(decoded)
    assert (device.decode(again) == decoded).all(), "encoding a decoded row must change nothing"
    assert encoded.nbytes <= 1 + 4 * vocab_size
    if device.lossless:
        assert (decoded == row).all()
    else:
        assert decoded[row.argmax()] > 0


@pytest.mark.parametrize("name", codec_names())
def test_lossless_is_not_claimed_by_what_loses(name):
    codec = make_codec(name, 1000)
    shapes = [row for _, row in rows(1000)]
    kept = all((codec.decode(codec.encode(row)) == row).all() for row in shapes)
    assert kept == codec.lossless


@pytest.mark.parametrize("name", codec_names())
def test_nothing_is_drawn_from_what_only_pads_a_row(name):
    codec = make_codec(name, 1500, 1000)
    for _, row in rows(1000):
        decoded = codec.decode(codec.encode(np.pad(row, (0, 500))))
        assert decoded.shape == (1500,) and not decoded[1000:].any()
        assert decoded.sum(dtype=np.float64) == pytest.approx(1, abs=1e-4)
        assert (codec.decode(codec.encode(decoded)) == decoded).all()


@pytest.mark.parametrize("vocab_size", [2, 1000, 70_000])
@pytest.mark.parametrize("name", codec_names())
def test_garbage_raises_codec_error_only(name, vocab_size):
    chance = random.Random(7)
    codec = make_codec(name, vocab_size)
    good = [bytes(codec.encode(row).data) for _, row in rows(vocab_size)]
    for _ in range(150):
        data = bytearray(chance.choice(good))
        what = chance.random()
        if what < 0.5:
            for _ in range(chance.randrange(1, 5)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        elif what < 0.75:
            del data[chance.randrange(len(data)) :]
        else:
            data = bytearray(chance.randbytes(chance.randrange(200)))
        try:
            row = codec.decode(Encoded(bytes(data)))
        except CodecError:
            continue
        assert row.shape == (vocab_size,) and np.isfinite(row).all() and row.min() >= 0
        assert row.sum(dtype=np.float64) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", codec_names())
@pytest.mark.parametrize("data", [b"", b"\0", b"\1", b"\2abc", b"\1" + bytes(6), b"\1" + b"\xff" * 6])
def test_short_garbage(name, data):
    with pytest.raises(CodecError):
        make_codec(name, 50_272).decode(Encoded(data))


def test_sizes_are_as_documented():
    vocab_size = 151_936
    shapes = dict(rows(vocab_size))
    size = {name: make_codec(name, vocab_size) for name in codec_names()}
    one_hot, full, few = shapes["one-hot at 0"], shapes["uniform"], shapes["top-k sampled"]
    assert size["dense_fp32"].encode(full).nbytes == 4 * vocab_size
    assert size["dense_fp16"].encode(full).nbytes == 2 * vocab_size
    assert size["sparse"].encode(one_hot).nbytes == 8
    assert size["sparse"].encode(few).nbytes == 1 + 20 * 7
    assert size["sparse"].encode(full).nbytes == 1 + 4 * vocab_size
    assert size["topk"].encode(full).nbytes == 1 + 64 * 7
    assert make_codec("sparse", 50_272).encode(np.eye(1, 50_272, 9, dtype=np.float32)[0]).nbytes == 7


def entries(ids, values, id_bytes=2):
    columns = b"".join(i.to_bytes(id_bytes, "little") for i in ids)
    return Encoded(b"\1" + columns + np.array(values, "<f4").tobytes())


@pytest.mark.parametrize("name", ["sparse", "topk"])
@pytest.mark.parametrize(
    ("ids", "values"),
    [
        ([3, 3], [0.5, 0.5]),
        ([4, 3], [0.5, 0.5]),
        ([3, 100], [0.5, 0.5]),
        ([3, 4], [0.5, float("nan")]),
        ([3, 4], [1.5, -0.5]),
        ([3, 4], [0.5, float("inf")]),
        ([3, 4], [0.5, 0.4]),
        ([3, 4], [1.0, 0.0]),
    ],
)
def test_sparse_entries_are_validated(name, ids, values):
    codec = make_codec(name, 100)
    assert codec.decode(entries([3, 99], [0.5, 0.5]))[99] == 0.5
    with pytest.raises(CodecError):
        codec.decode(entries(ids, values))


def test_topk_keeps_the_most_probable_and_the_lowest_ids_of_equals():
    codec = make_codec("topk", 8, k=3)
    row = np.array([0.1, 0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1], np.float32)
    kept = codec.decode(codec.encode(row))
    assert np.flatnonzero(kept).tolist() == [0, 1, 3]
    assert kept.tolist() == pytest.approx([0.2, 0.4, 0, 0.4, 0, 0, 0, 0])
    with pytest.raises(CodecError, match="more than 3"):
        codec.decode(make_codec("topk", 8, k=4).encode(row))


def test_fp16_is_close_and_keeps_the_tail():
    codec = make_codec("dense_fp16", 151_936)
    for shape, row in rows(151_936):
        decoded = codec.decode(codec.encode(row))
        assert np.abs(decoded - row).sum() < 1e-2, shape


def test_fp16_rounds_as_ieee_does():
    codec = make_codec("dense_fp16", 100_000)
    row = np.exp(-20 * np.random.default_rng(0).random(100_000)).astype(np.float32)
    row[:3000] = np.arange(1, 3001) * 2.0**-25  # ties of the subnormals
    row[3000] = 1
    assert bytes(codec.encode(row).data) == (row / row.max()).astype("<f2").tobytes()


def test_unknown_names_and_options_are_named():
    with pytest.raises(CodecError, match=r"unknown codec 'zip'; there are: .*dense_fp32"):
        make_codec("zip", 100)
    with pytest.raises(CodecError, match=r"topk.*levels"):
        make_codec("topk", 100, levels=3)
    for k in (0, -1, 2.5, "8"):
        with pytest.raises(CodecError, match="at least 1"):
            make_codec("topk", 100, k=k)


@pytest.mark.parametrize("resolution", [1, 7, 100, 255, 256, 65_535])
@pytest.mark.parametrize("k", [0, 1, 5])
@pytest.mark.parametrize("vocab_size", [2, 50, 70_000])
def test_lattice_sums_to_one_exactly_and_is_a_fixed_point(vocab_size, k, resolution):
    codec = make_codec("lattice", vocab_size, resolution=resolution, k=k)
    for _, row in rows(vocab_size):
        encoded = codec.encode(row)
        decoded = codec.decode(encoded)
        counts = decoded * resolution
        assert np.rint(counts).sum() == resolution and np.allclose(counts, np.rint(counts), atol=1e-2)
        assert (codec.decode(codec.encode(decoded)) == decoded).all()
        assert np.count_nonzero(decoded) <= min(resolution, vocab_size, k or vocab_size)
        entry_bytes = (2 if vocab_size < 65_536 else 3) + 1 + (resolution > 255)
        assert encoded.nbytes == np.count_nonzero(decoded) * entry_bytes


def test_lattice_is_the_nearest_point():
    from itertools import product

    resolution, chance = 6, np.random.default_rng(3)
    codec = make_codec("lattice", 4, resolution=resolution)
    points = [np.array(p) / resolution for p in product(range(resolution + 1), repeat=4) if sum(p) == resolution]
    for _ in range(50):
        row = chance.dirichlet(np.ones(4)).astype(np.float32)
        nearest = min(np.abs(row - point).sum() for point in points)
        assert np.abs(row - codec.decode(codec.encode(row))).sum() == pytest.approx(nearest, abs=1e-6)


@pytest.mark.parametrize("options", [{"resolution": 0}, {"resolution": 65_536}, {"resolution": 2.5}, {"k": -1}])
def test_lattice_refuses(options):
    with pytest.raises(CodecError, match="lattice"):
        make_codec("lattice", 50, **options)
