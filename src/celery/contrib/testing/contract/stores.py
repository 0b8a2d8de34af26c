"""What every result store keeps to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from celery.backends.store import Store
from celery.utils.clock import FakeClock
from celery.wire.message import Arrival, Record


class StoreContract:
    """Override `connect` with a function that makes a store on one place, which is new in every test."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def connect(self, clock: FakeClock) -> Callable[..., Store]:
        pytest.fail("Override the fixture `connect`.")

    @pytest.fixture
    def pass_time(self, clock: FakeClock) -> Callable[[float], object]:
        """Lets seconds pass for the store. Override where the store has a clock of its own."""
        return clock.advance

    @pytest.fixture
    def store(self, connect: Callable[..., Store]) -> Iterator[Store]:
        store = connect()
        yield store
        store.close()

    def test_keeps_values(self, store: Store) -> None:
        assert store.put([Record("a", b"1"), Record("b", b"\x00\xff")]) == [True, True]
        assert store.get(["b", "nothing", "a"]) == [b"\x00\xff", None, b"1"]
        assert store.put([]) == []
        assert store.get([]) == []

    def test_is_one_place_for_all_who_connect(self, store: Store, connect: Callable[..., Store]) -> None:
        other = connect()
        store.set("a", b"1")
        assert other.get(["a"]) == [b"1"]
        other.close()

    def test_may_be_used_again_after_close(self, store: Store) -> None:
        store.set("a", b"1")
        store.close()
        store.close()
        assert store.get(["a"]) == [b"1"]

    @pytest.mark.parametrize(
        ("first", "then", "wins"),
        [
            (("STARTED", "w"), ("RETRY", "w"), True),
            (("STARTED", "w"), ("SUCCESS", "w"), True),
            (("PROGRESS", "w"), ("FAILURE", "v"), True),
            (("SUCCESS", "w"), ("FAILURE", "w"), False),
            (("SUCCESS", "w"), ("FAILURE", "v"), False),
            (("SUCCESS", "w"), ("SUCCESS", "v"), False),
            (("SUCCESS", "w"), ("STARTED", "v"), False),
            (("FAILURE", "w"), ("SUCCESS", "w"), False),
            (("FAILURE", "w"), ("SUCCESS", "v"), True),
            (("FAILURE", "w"), ("FAILURE", "v"), True),
            (("FAILURE", "w"), ("STARTED", "v"), False),
            (("REVOKED", "w"), ("SUCCESS", "w"), False),
            (("REVOKED", "w"), ("FAILURE", "v"), True),
            (("REVOKED", "w"), ("RETRY", "v"), False),
        ],
    )
    def test_first_terminal_state_of_a_writer_wins(
        self, store: Store, first: tuple[str, str], then: tuple[str, str], *, wins: bool
    ) -> None:
        assert store.put([Record("k", b"first", state=first[0], writer=first[1])]) == [True]
        assert store.put([Record("k", b"then", state=then[0], writer=then[1])]) == [wins]
        assert store.get(["k"]) == [b"then" if wins else b"first"]

    def test_applies_the_rule_within_one_put(self, store: Store) -> None:
        records = [Record("k", b"1", "STARTED"), Record("k", b"2", "SUCCESS"), Record("k", b"3", "FAILURE")]
        assert store.put(records) == [True, True, False]
        assert store.get(["k"]) == [b"2"]

    def test_forgets_after_ttl(self, store: Store, pass_time: Callable[[float], object]) -> None:
        if not store.can.expire:
            pytest.skip("capability: this store keeps values until they are deleted")
        store.put([Record("short", b"1", ttl=1.0), Record("long", b"2", ttl=1000.0), Record("for ever", b"3")])
        pass_time(2.0)
        assert store.get(["short", "long", "for ever"]) == [None, b"2", b"3"]
        assert store.put([Record("short", b"4", "STARTED")]) == [True], "what has expired is no terminal state any more"
        assert store.get(["short"]) == [b"4"]

    def test_expire_deletes_what_is_over(self, store: Store, pass_time: Callable[[float], object]) -> None:
        if not store.can.expire:
            pytest.skip("capability: this store keeps values until they are deleted")
        store.put([Record(str(number), b"", ttl=1.0 if number % 2 else 1000.0) for number in range(2500)])
        pass_time(2.0)
        assert store.expire() in {1250, 0}, "0 where the store does it by itself"
        assert store.expire() == 0
        assert store.get(["1", "2"]) == [None, b""]

    def test_set_replaces_whatever_is_there(self, store: Store) -> None:
        store.put([Record("k", b"final", "SUCCESS")])
        store.set("k", b"plain")
        assert store.get(["k"]) == [b"plain"]
        assert store.put([Record("k", b"again", "STARTED")]) == [True]

    def test_add_only_if_absent(self, store: Store, pass_time: Callable[[float], object]) -> None:
        assert store.add("k", b"1", ttl=1.0)
        assert not store.add("k", b"2")
        assert store.get(["k"]) == [b"1"]
        if store.can.expire:
            pass_time(2.0)
            assert store.add("k", b"3")
            assert store.get(["k"]) == [b"3"]

    def test_delete_counts_what_was_there(self, store: Store) -> None:
        store.put([Record("a", b""), Record("b", b"")])
        assert store.delete(["a", "b", "c"]) == 2
        assert store.delete(["a"]) == 0
        assert store.get(["a", "b"]) == [None, None]

    def test_add_is_won_by_one_thread(self, connect: Callable[..., Store]) -> None:
        won: list[int] = []
        stores = [connect() for _ in range(4)]
        threads = [
            threading.Thread(target=lambda n=number, s=store: won.append(n) if s.add("k", b"") else None)
            for number, store in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        for store in stores:
            store.close()

    def test_watch_wakes_on_a_write(self, store: Store, connect: Callable[..., Store]) -> None:
        with store.watch(["k"]) as watch:
            writer = connect()
            woken: list[bool] = []
            waiter = threading.Thread(target=lambda: woken.append(watch.wait(30.0)))
            waiter.start()
            writer.put([Record("k", b"1")])
            waiter.join(10.0)
            assert woken == [True]
            writer.close()

    def test_watch_does_not_miss_a_write_before_the_wait(self, store: Store) -> None:
        with store.watch(["k"]) as watch:
            store.put([Record("k", b"1")])
            assert watch.wait(10.0)
            store.set("k", b"2")
            assert watch.wait(10.0)

    def test_watch_ends_with_its_timeout(self, store: Store) -> None:
        with store.watch(["k"]) as watch:
            assert not watch.wait(0.0)
            assert not watch.wait(0.02)

    def test_closing_a_watch_ends_its_wait(self, store: Store) -> None:
        watch = store.watch(["k"])
        ended = threading.Event()

        def wait() -> None:
            while watch.wait(30.0):
                pass
            ended.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        watch.close()
        watch.close()
        assert ended.wait(10.0)
        waiter.join()

    def test_ringing_a_watch_ends_its_wait(self, store: Store) -> None:
        watch = store.watch(["k"])
        waiter = threading.Thread(target=watch.wait, args=(30.0,))
        waiter.start()
        watch.ring()
        waiter.join(10.0)
        assert not waiter.is_alive()
        watch.close()

    def test_a_watch_tells_what_was_written_if_it_can(self, store: Store) -> None:
        with store.watch(["a", "b"]) as watch:
            store.put([Record("a", b"1"), Record("c", b"1")])
            assert watch.wait(10.0)
            written = watch.written()
            assert written is None or "a" in written

    def test_join_is_completed_once_by_its_last_part(self, store: Store) -> None:
        assert store.arrive([Arrival("g", "0", b"a", 3)]) == [False]
        assert store.arrive([Arrival("g", "0", b"x", 3)]) == [False], "a part counts once"
        assert store.arrive([Arrival("g", "1", b"b", 3), Arrival("g", "2", b"c", 3)]) == [False, True]
        assert store.arrive([Arrival("g", "2", b"c", 3)]) == [False]
        assert store.arrived("g") == {"0": b"a", "1": b"b", "2": b"c"}
        assert store.arrived("another") == {}

    def test_join_is_completed_once_under_concurrency(self, connect: Callable[..., Store]) -> None:
        completed: list[bool] = []
        size = 40

        def arrive(store: Store, parts: range) -> None:
            for part in parts:
                completed.extend(store.arrive([Arrival("g", str(part), b"", size)]))

        stores = [connect() for _ in range(4)]
        threads = [threading.Thread(target=arrive, args=(store, range(size))) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(completed) == 4 * size
        assert completed.count(True) == 1
        for store in stores:
            store.close()

    def test_deleting_a_join_forgets_its_parts(self, store: Store) -> None:
        store.arrive([Arrival("g", "0", b"a", 2)])
        assert store.delete(["g"]) == 1
        assert store.arrived("g") == {}
        assert store.arrive([Arrival("g", "1", b"b", 2)]) == [False]
