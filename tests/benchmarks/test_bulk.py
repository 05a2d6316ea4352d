"""benchmarks.bulk: where its images lie, and what its page says of a record."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
from benchmarks.bulk import count_parts, describe, make_halves

from clipsr.batch._output import OutputFolder
from clipsr.batch._partitions import plan_partitions

RATE = {
    "model": "m",
    "images": 4096,
    "in_process_images_per_s": 100.0,
    "ray_images_per_s": 89.0,
    "ray_with_start_images_per_s": 70.0,
    "share": 0.89,
    "load_average": 0.4,
}
EXACT = {
    "model": "m",
    "images": 20_000,
    "partitions_done_at_kills": [[13, 27], [9, 30]],
    "images_compared": 4_000,
    "other_top1": 0,
    "largest_cosine_difference": 2e-7,
}


def test_both_halves_are_what_the_command_finds(tmp_path):
    images = [b"%d" % number for number in range(10)]
    pyarrow.parquet.write_table(
        pyarrow.table({"image": [{"bytes": image} for image in images]}), tmp_path / "c.parquet"
    )
    found = []
    with make_halves(tmp_path / "c.parquet", 9, tmp_path / "disk") as halves:
        for half in halves:
            parts = plan_partitions(half.source, size=2, column=None)
            assert [name for part in parts for name in part.names()] == half.names
            read = [image for part in parts for image in part.read(max_bytes=9)]
            assert read == half.contents
            found += read
            output = OutputFolder(half.output)
            assert count_parts(half.output) == 0
            output.begin({}, is_restarted=False)
            output.write(0, [])
            assert count_parts(half.output) == 1
    assert found == images[:9]


def test_the_page_says_what_was_met_and_what_was_missed():
    record = {"rate": RATE, "exact": EXACT, "environment": {"processor": "p", "cores": 2}}
    page = describe(record)
    assert "89.0 (0.89×) | ≥ 0.9× | **missed** |" in page
    assert "m, 20,000 images, killed 4 times:" in page
    assert "0; 2.0e-07 | 0; ≤ 1e-3 | met |" in page
    record["exact"] = {**EXACT, "other_top1": 1}
    assert "1; 2.0e-07 | 0; ≤ 1e-3 | **missed** |" in describe(record)
    record["rate"] = {**RATE, "load_average": 14.2}
    assert "≥ 0.9× | not decided: load average 14, of other programs |" in describe(record)
