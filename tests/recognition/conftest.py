import pytest


@pytest.fixture
def call(service):
    """Runs a coroutine function of the product on the service's loop."""
    return lambda work: service.portal.call(lambda: work(service.product))
