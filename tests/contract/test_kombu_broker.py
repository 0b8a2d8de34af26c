"""What every broker keeps to, over three of kombu's transports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from celery.backends.memory import MemoryStore
from celery.backends.store import Store
from celery.bridge.consumer import KombuConsumer
from celery.brokers.base import Broker
from celery.brokers.kombu import KombuBroker
from celery.contrib.testing.contract import BrokerContract, BusContract
from celery.utils.clock import FakeClock
from rig.sqs import SQS


def files(folder: Path, **options: object) -> KombuBroker:
    """A broker over `filesystem://`, all of it below *folder*."""
    known = {
        "data_folder_in": str(folder / "data"),
        "data_folder_out": str(folder / "data"),
        "control_folder": str(folder / "control"),
        "spool": folder / "spool",
        "polling_interval": 0.02,
    }
    (folder / "data").mkdir(exist_ok=True)
    clock = options.pop("clock", None)
    more = {} if clock is None else {"clock": clock}
    return KombuBroker("filesystem://", options={**known, **options}, **more)  # type: ignore[arg-type]


class Bridged(BrokerContract):
    """Brokers whose connections are dear: what they cannot do is skipped before one is made."""

    many = 15

    @pytest.fixture(autouse=True)
    def _skip_at_once(self, request: pytest.FixtureRequest) -> None:
        owner, _, name = request.function.__qualname__.partition(".")
        if owner == "LimitsContract" or (owner == "EffectsContract" and "refused" not in name):
            pytest.skip("capability: this broker gives no permits, and fuses with no store")


class TestFilesystem(BrokerContract):
    @pytest.fixture
    def connect(self, clock: FakeClock, tmp_path: Path) -> Callable[..., Broker]:
        return lambda **options: files(tmp_path, clock=clock, exact_claims=True, **options)


class TestSQLAlchemy(Bridged):
    @pytest.fixture
    def connect(self, clock: FakeClock, tmp_path: Path) -> Callable[..., Broker]:
        def connect(**options: object) -> Broker:
            known = {"exact_claims": True, "spool": tmp_path / "spool", "polling_interval": 0.02, "timeout": 30}
            return KombuBroker(f"sqla+sqlite:///{tmp_path}/broker.db", options={**known, **options}, clock=clock)

        return connect


class Marked(KombuBroker):
    """As a worker has it whose results are in a store of ours: its consumers keep their marks there."""

    def consumer(
        self,
        queues: Sequence[str],
        *,
        name: str,
        store: Store | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> KombuConsumer:
        place = f"memory://{self.options['queue_name_prefix']}"
        return super().consumer(queues, name=name, store=store or MemoryStore(place), weights=weights)


@pytest.mark.timeout(400)  # the first one makes an environment
class TestSQS(Bridged):
    @pytest.fixture
    def connect(self, clock: FakeClock, sqs: SQS) -> Callable[..., Broker]:
        prefix = sqs.prefix()

        def connect(**options: object) -> Broker:
            known = {**sqs.options, "exact_claims": True, "queue_name_prefix": prefix}
            return Marked(sqs.url, options={**known, **options}, clock=clock)

        return connect


class TestFilesystemBus(BusContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[..., Broker]:
        return lambda **options: files(tmp_path, **options)


class TestSQLAlchemyBus(BusContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[..., Broker]:
        return lambda **options: KombuBroker(f"sqla+sqlite:///{tmp_path}/broker.db", options=options)
