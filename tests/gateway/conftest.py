"""A store in each database that there is, and a gateway that several tests of a module share."""

import pytest

from sdpo.gateway.database import open_engine
from sdpo.gateway.schema import METADATA
from tests.gateway.running import POSTGRES, gateway
from tests.gateway.upstreams import Upstream

DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.skipif(not POSTGRES, reason="SDPO_TEST_POSTGRES"))]


def emptied(url: str) -> str:
    """Drop the tables of a PostgreSQL store and return its address."""
    engine = open_engine(url)
    METADATA.drop_all(engine)
    engine.dispose()
    return url


@pytest.fixture(params=DATABASES)
def store_url(request, tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'store.sqlite'}" if request.param == "sqlite" else emptied(POSTGRES)


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def running(upstream, tmp_path_factory):
    with gateway(upstream.url, tmp_path_factory.mktemp("gateway")) as one:
        yield one


@pytest.fixture(autouse=True)
def _plain_upstream(request):
    """Let the shared upstream answer as it does at first."""
    if "upstream" in request.fixturenames:
        request.getfixturevalue("upstream").reset()
