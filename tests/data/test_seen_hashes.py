import errno
from random import Random

import pytest

from sdpo.data.seen_hashes import SeenHashes


def test_a_mark_is_new_once():
    rng = Random(0)
    marks, reference = SeenHashes(), set()
    for _ in range(3000):
        mark = rng.choice([rng.randrange(-500, 500), rng.getrandbits(63), -(1 << 63), (1 << 63) - 1])
        assert (mark in marks) == (mark in reference)
        assert marks.add(mark) == (mark not in reference)
        reference.add(mark)


def test_a_full_disk_is_an_error_of_the_disk():
    marks = SeenHashes()
    marks._database.execute("PRAGMA max_page_count = 8")
    with pytest.raises(OSError) as found:
        for mark in range(100_000):
            marks.add(mark)
    assert found.value.errno == errno.ENOSPC
