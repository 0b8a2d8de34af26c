"""The suites that say whether a driver is one: subclass, override the fixtures, run pytest.

```python
class TestMyBroker(BrokerContract):
    @pytest.fixture
    def connect(self, clock):
        return lambda **options: MyBroker("my://host", options=options, clock=clock)
```

A test is skipped by what the driver says it `can`, never by its name.
"""

from celery.contrib.testing.contract.books import BookContract
from celery.contrib.testing.contract.brokers import BrokerContract
from celery.contrib.testing.contract.buses import BusContract
from celery.contrib.testing.contract.pools import PoolContract
from celery.contrib.testing.contract.stores import StoreContract

__all__ = ["BookContract", "BrokerContract", "BusContract", "PoolContract", "StoreContract"]
