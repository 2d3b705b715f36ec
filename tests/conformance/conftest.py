"""Fixtures for the server under test, which the whole suite shares."""

import pytest

from conformance.endpoint import EMBEDDED, batching_endpoint, main_endpoint


# For this folder, not the session: the server's settings must not outlast its tests.
@pytest.fixture(scope="package")
def endpoint(tmp_path_factory):
    """The server under test."""
    yield from main_endpoint(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(scope="package")
def batching(endpoint):
    """A server with the same models and the parameters in `batching.config`."""
    yield from batching_endpoint(endpoint)


@pytest.fixture
def predictions(endpoint):
    """The stub of its PredictionService."""
    return endpoint.predictions


@pytest.fixture
def rest(endpoint):
    """The server under test, if it provides REST."""
    if endpoint.rest is None:
        pytest.skip("TFS_REST_ENDPOINT is not set")
    return endpoint


@pytest.fixture
def disk(endpoint):
    """The server under test, if its models' directory is accessible."""
    if endpoint.disk is None:
        pytest.skip("TFS_MODELS is not set")
    return endpoint


@pytest.fixture
def embedded():
    """Whether the embedded server is under test."""
    return EMBEDDED
