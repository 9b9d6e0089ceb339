"""A store in each database that there is, and a gateway that several tests of a module share."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, text

from tests.gateway.running import POSTGRES, gateway
from tests.gateway.upstreams import Upstream

DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.skipif(not POSTGRES, reason="SDPO_TEST_POSTGRES"))]


@contextmanager
def schema() -> Iterator[str]:
    """Make a schema in the PostgreSQL database, so that tests at once have tables of their own; yield its address."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    try:
        yield f"{POSTGRES}{'&' if '?' in POSTGRES else '?'}options=-csearch_path%3D{name}"
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
        engine.dispose()


@pytest.fixture(params=DATABASES)
def store_url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
    else:
        with schema() as url:
            yield url


@pytest.fixture
def postgres_url():
    with schema() as url:
        yield url


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
