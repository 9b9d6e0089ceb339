"""The tiny world's loop keeps its conversations and versions apart from those of real models."""

from sdpo.settings import settings_of
from tests.commands import JOBS


def test_every_job_with_a_store_or_a_registry_has_another_one_in_the_tiny_world():
    found = 0
    for job in JOBS.values():
        declared = settings_of(job.settings)
        for name in {"store_url", "registry"} & set(declared):
            found += 1
            assert "tiny-" in str(job.tiny[name]) != str(declared[name].default), (job.name, name)
    assert found > 12
