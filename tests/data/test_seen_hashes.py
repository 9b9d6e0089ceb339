import errno
from random import Random

import pytest

from sdpo.data.seen_hashes import SeenHashes


def test_a_hash_is_new_once():
    rng = Random(0)
    hashes, reference = SeenHashes(), set()
    for _ in range(3000):
        value = rng.choice([rng.randrange(-500, 500), rng.getrandbits(63), -(1 << 63), (1 << 63) - 1])
        assert (value in hashes) == (value in reference)
        assert hashes.add(value) == (value not in reference)
        reference.add(value)


def test_a_full_disk_raises_os_error():
    hashes = SeenHashes()
    hashes._database.execute("PRAGMA max_page_count = 8")
    with pytest.raises(OSError) as caught:
        for value in range(100_000):
            hashes.add(value)
    assert caught.value.errno == errno.ENOSPC
