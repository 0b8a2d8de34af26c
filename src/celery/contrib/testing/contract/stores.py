"""What every result store keeps to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from celery.backends.store import Store
from celery.brokers.revocations import Revocations
from celery.utils import uuid
from celery.utils.clock import FakeClock
from celery.wire.message import Arrival, Record

SOON = 30.0
"""Seconds within which what must happen has happened."""


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

    def test_keeps_notes(self, store: Store, pass_time: Callable[[float], object]) -> None:
        store.set_many({})
        store.set("b", b"before")
        store.set_many({"a": b"1", "b": b"\x00\xff"}, ttl=30.0)
        many = {f"many-{number}": b"%d" % number for number in range(2500)}
        store.set_many(many)
        assert store.get(["b", "nothing", "a"]) == [b"\x00\xff", None, b"1"]
        assert store.get(list(many)) == list(many.values())
        if store.can.expire:
            pass_time(40.0)
            assert store.get(["a", "b", "many-7"]) == [None, None, b"7"]

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

    def test_what_is_written_again_lasts_anew(self, store: Store, pass_time: Callable[[float], object]) -> None:
        """As signs of life do, which are renewed."""
        if not store.can.expire:
            pytest.skip("capability: this store keeps values until they are deleted")
        for _ in range(3):
            store.put([Record("put", b"1", "STARTED", ttl=60.0)])
            store.set("set", b"1", ttl=60.0)
            pass_time(35.0)
            assert store.get(["put", "set"]) == [b"1", b"1"]
        pass_time(35.0)
        assert store.get(["put", "set"]) == [None, None]

    def test_expire_deletes_what_is_over(self, store: Store, pass_time: Callable[[float], object]) -> None:
        if not store.can.expire:
            pytest.skip("capability: this store keeps values until they are deleted")
        store.put([Record(str(number), b"", ttl=1.0 if number % 2 else 1000.0) for number in range(2500)])
        pass_time(2.0)
        gone = 0
        while portion := store.expire():
            gone += portion
        assert gone in {1250, 0}, "0 where the store does it by itself"
        assert store.get(["1", "2"]) == [None, b""]

    def test_keeps_revocations_of_brokers_that_keep_none(self, store: Store, connect: Callable[..., Store]) -> None:
        other = connect()
        writers = [Revocations(lambda: store), Revocations(lambda: other), Revocations(lambda: store)]
        names = [[f"{writer}-{number}" for number in range(5)] for writer in range(3)]
        threads = [
            threading.Thread(target=lambda w=writer, ids=ids: [w.add([one], 60.0) for one in ids])
            for writer, ids in zip(writers, names, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reader = Revocations(lambda: other)
        assert not reader
        reader.refresh()
        assert reader.ids() == sorted(one for ids in names for one in ids)
        assert "0-0" in reader
        writers[0].add(["longer"], 600.0, most=2)
        assert "0-0" in reader
        reader.refresh()
        assert len(reader.ids()) == 2
        assert "longer" in reader
        assert "nobody" not in reader
        other.close()

    def test_takes_as_many_revocations_as_it_has_room_for(self, store: Store) -> None:
        many = [f"{number:036}" for number in range(30_000)]
        writer = Revocations(lambda: store)
        writer.add(["first"], 6.0)
        writer.add(many, 60.0)
        reader = Revocations(lambda: store)
        reader.refresh()
        assert "first" not in reader, "what would end first makes room"
        assert len(reader.ids()) > 10_000

    def test_set_replaces_whatever_is_there(self, store: Store) -> None:
        store.put([Record("k", b"final", "SUCCESS")])
        store.set("k", b"plain")
        assert store.get(["k"]) == [b"plain"]
        assert store.put([Record("k", b"again", "STARTED")]) == [True]

    def test_add_only_if_absent(self, store: Store, pass_time: Callable[[float], object]) -> None:
        assert store.add("k", b"1", ttl=30.0)
        assert not store.add("k", b"2")
        assert store.get(["k"]) == [b"1"]
        if store.can.expire:
            pass_time(40.0)
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
            waiter = threading.Thread(target=lambda: woken.append(watch.wait(60.0)))
            waiter.start()
            writer.put([Record("k", b"1")])
            waiter.join(SOON)
            assert woken == [True]
            writer.close()

    def test_watch_does_not_miss_a_write_before_the_wait(self, store: Store) -> None:
        with store.watch(["k"]) as watch:
            store.put([Record("k", b"1")])
            assert watch.wait(SOON)
            store.set("k", b"2")
            assert watch.wait(SOON)

    def test_watch_ends_with_its_timeout(self, store: Store) -> None:
        with store.watch(["k"]) as watch:
            assert not watch.wait(0.0)
            assert not watch.wait(0.02)

    def test_closing_a_watch_ends_its_wait(self, store: Store) -> None:
        watch = store.watch(["k"])
        ended = threading.Event()

        def wait() -> None:
            while watch.wait(60.0):
                pass
            ended.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        watch.close()
        watch.close()
        assert ended.wait(SOON)
        waiter.join()

    def test_ringing_a_watch_ends_its_wait(self, store: Store) -> None:
        watch = store.watch(["k"])
        waiter = threading.Thread(target=watch.wait, args=(60.0,))
        waiter.start()
        watch.ring()
        waiter.join(SOON)
        assert not waiter.is_alive()
        watch.close()

    def test_a_watch_tells_what_was_written_if_it_can(self, store: Store) -> None:
        with store.watch(["a", "b"]) as watch:
            store.put([Record("a", b"1"), Record("c", b"1")])
            assert watch.wait(SOON)
            written = watch.written()
            assert written is None or written["a"] in {None, b"1"}

    def test_a_watch_tells_nothing_of_what_was_written_before_it(self, store: Store) -> None:
        """As where somebody waits for a task that was sent again, and another watch has not taken in its first end."""
        key = f"celery-task-meta-{uuid()}"
        with store.watch([key, "other"]):
            store.put([Record(key, b"first")])
        store.delete([key])
        with store.watch([key]) as watch:
            watch.wait(0.0)
            assert b"first" not in (watch.written() or {}).values()
            store.set(key, b"second")
            with store.watch([key]) as later:
                later.wait(0.0)
                assert b"second" not in (later.written() or {}).values()
            assert watch.wait(SOON)
            written = watch.written()
            assert written is None or written[key] in {None, b"second"}

    def test_join_is_completed_by_its_last_part(self, store: Store) -> None:
        assert store.arrive([part(2, 3)]) == [False]
        assert store.arrive([part(2, 3, b"another")]) == [False], "a part counts once"
        assert store.arrive([part(0, 3), part(10, 3)]) == [False, True]
        assert store.arrived("g.") == [b"0", b"2", b"10"], "in the order of their places, the first value of each"
        assert store.arrived("another.") == []

    def test_completing_a_join_may_be_repeated(self, store: Store) -> None:
        """Whoever was told that a join is complete may crash before it has sent the message."""
        store.arrive([part(0, 2), part(1, 2)])
        assert store.arrive([part(0, 2), part(1, 2), part(0, 2), part(1, 2)]) == [False, True, False, True]

    def test_nothing_enters_a_complete_join(self, store: Store) -> None:
        store.arrive([part(0, 2), part(1, 2)])
        assert store.arrive([part(2, 2), part(2, 3)]) == [False, False]
        assert store.arrive([Arrival("g.", "+late", b"", 2, grows=True)]) == [False]
        assert store.arrived("g.") == [b"0", b"1"]
        assert store.arrive([part(1, 2)]) == [True]

    def test_parts_with_one_place_are_parts_of_their_own(self, store: Store) -> None:
        parts = [
            Arrival("g.", "b:1", b"b", 4),
            Arrival("g.", "a:1", b"a", 4),
            Arrival("g.", "none", b"n", 4),
            part(0, 4),
        ]
        assert store.arrive(parts) == [False, False, False, True]
        assert store.arrived("g.") == [b"0", b"a", b"b", b"n"]

    def test_join_grows_by_each_index_once(self, store: Store) -> None:
        more = Arrival("g.", "+more", b"", 2, grows=True)
        assert store.arrive([part(0, 2), more, more]) == [False, False, False]
        assert store.arrive([part(1, 2)]) == [False]
        assert store.arrived("g.") == [b"0", b"1"], "what makes it grow is no part"
        assert store.arrive([part(2, 2)]) == [True]
        assert store.arrive([more, part(2, 2)]) == [False, True]

    def test_join_may_grow_before_its_first_part_comes(self, store: Store) -> None:
        assert store.arrive([Arrival("g.", "+more", b"", 1, grows=True), part(0, 1), part(1, 1)]) == [
            False,
            False,
            True,
        ]

    def test_join_of_one_part_is_complete_at_once(self, store: Store) -> None:
        assert store.arrive([part(0, 1), part(0, 1)]) == [True, True]

    def test_join_of_unknown_size_waits(self, store: Store) -> None:
        assert store.arrive([part(0, 0), part(1, 0)]) == [False, False]
        assert store.arrive([part(2, 3)]) == [True]

    def test_joins_do_not_touch(self, store: Store) -> None:
        assert store.arrive([part(0, 2, group="g."), part(0, 1, group="h."), part(0, 2, group="gg.")]) == [
            False,
            True,
            False,
        ]
        assert store.arrive([part(1, 2, group="gg.")]) == [True]
        assert store.arrived("g.") == [b"0"]

    def test_complete_join_is_kept_for_a_day(self, store: Store, pass_time: Callable[[float], object]) -> None:
        if not store.can.expire:
            pytest.skip("capability: this store keeps values until they are deleted")
        store.arrive([part(0, 1, group="done."), part(0, 2, group="live.")])
        pass_time(86_000.0)
        store.expire()
        assert store.arrived("done.") == [b"0"]
        assert store.arrive([part(0, 1, group="done.")]) == [True]
        pass_time(1_000.0)
        store.expire()
        assert store.arrived("done.") == []
        assert store.arrived("live.") == [b"0"], "a join that is not complete has no end"

    def test_join_is_completed_by_one_part_under_concurrency(self, connect: Callable[..., Store]) -> None:
        completed: list[str] = []
        size = 40

        def arrive(store: Store, numbers: Sequence[int]) -> None:
            completed.extend(str(number) for number in numbers if store.arrive([part(number, size)]) == [True])

        stores = [connect() for _ in range(4)]
        orders = [range(size), range(size)[::-1], [*range(20, size), *range(20)], range(size)]
        threads = [
            threading.Thread(target=arrive, args=(store, order)) for store, order in zip(stores, orders, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(completed)) == 1
        assert stores[0].arrived("g.") == [b"%d" % number for number in range(size)]
        for store in stores:
            store.close()

    def test_deleting_a_join_forgets_its_parts(self, store: Store) -> None:
        store.arrive([part(0, 2)])
        assert store.delete(["g."]) == 1
        assert store.arrived("g.") == []
        assert store.arrive([part(1, 2)]) == [False]
        assert store.delete(["g.", "g."]) == 1


def part(number: int, size: int, value: bytes = b"", group: str = "g.") -> Arrival:
    """The part at place *number*."""
    return Arrival(group, f"id{number}:{number}", value or b"%d" % number, size)
