"""One server for the whole suite."""

import pytest

from conformance.endpoint import EMBEDDED, batching_endpoint, main_endpoint


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory):
    """The server that is asked."""
    yield from main_endpoint(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(scope="session")
def batching(endpoint):
    """The same with batching, by `batching.config`."""
    yield from batching_endpoint(endpoint)


@pytest.fixture
def predictions(endpoint):
    """The stub of `PredictionService`."""
    return endpoint.predictions


@pytest.fixture
def rest(endpoint):
    """The endpoint, if it has REST."""
    if endpoint.rest is None:
        pytest.skip("TFS_REST_ENDPOINT is not given")
    return endpoint


@pytest.fixture
def disk(endpoint):
    """The endpoint, if its models' folder is at hand."""
    if endpoint.disk is None:
        pytest.skip("TFS_MODELS is not given")
    return endpoint


@pytest.fixture
def embedded():
    """Whether it is the embedded server that is asked."""
    return EMBEDDED
