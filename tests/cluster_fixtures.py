"""One cluster for all tests that need several nodes, whichever file they are in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cluster_evidence import Evidence
from cluster_hosts import Cluster, Host, three_nodes, wait_for

HERE = Path(__file__).parent / "cluster"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the cluster come last, so that it does not run beside other tests."""
    items.sort(
        key=lambda item: item.path.parent == HERE and "cluster" in getattr(item, "fixturenames", ())
    )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three; whatever a test killed, the next one's ``hosts`` starts again."""
    with three_nodes(tmp_path_factory.mktemp("cluster")) as running:
        with closing(Evidence(running)) as evidence:
            evidence.install()
        yield running


@pytest.fixture
def hosts(cluster: Cluster) -> list[Host]:
    """The nodes, all live."""
    cluster.start()
    wait_for(lambda: set(cluster.states().values()) == {"live"}, "three live nodes")
    return cluster.hosts
