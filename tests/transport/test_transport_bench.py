from transport.bench import measure


def test_every_figure_has_its_bound():
    records = measure(exchanges=50, vocab_size=1000)
    assert {"round trip, small", "codec sparse", "codec dense_fp32"} <= {record["name"] for record in records}
    for record in records:
        assert set(record) == {"name", "value", "bound", "unit", "ok", "note"}
        assert record["value"] > 0 and record["ok"] == (record["value"] <= record["bound"])
