"""Many threads, one transaction: nobody is lost, nobody waits for ever, whoever writes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs.groupcommit import GroupCommit


def test_one_alone_writes_at_once_in_its_own_thread() -> None:
    threads: list[int] = []

    def write(items: list[int]) -> list[int]:
        threads.append(threading.get_ident())
        return [item * 2 for item in items]

    group: GroupCommit[int, int] = GroupCommit(write)
    assert [group.submit(n) for n in range(3)] == [0, 2, 4]
    assert threads == [threading.get_ident()] * 3


def test_those_who_come_during_a_write_share_the_next_ones_up_to_the_limit() -> None:
    batches: list[list[int]] = []
    started, go = threading.Event(), threading.Event()

    def write(items: list[int]) -> list[int]:
        batches.append(list(items))
        started.set()
        assert go.wait(10)
        return [item * 2 for item in items]

    group: GroupCommit[int, int] = GroupCommit(write, limit=4)
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(group.submit, 100)
        assert started.wait(10)
        others = [pool.submit(group.submit, n) for n in range(10)]
        while len(group._waiting) < 10:
            threading.Event().wait(0.001)
        go.set()
        assert first.result(10) == 200
        assert [other.result(10) for other in others] == [n * 2 for n in range(10)]
    assert batches[0] == [100]
    assert sorted(map(len, batches[1:])) == [2, 4, 4]


def test_an_error_in_place_of_a_result_is_raised_in_its_own_thread_only() -> None:
    group: GroupCommit[int, int] = GroupCommit(lambda items: [ValueError(str(n)) if n % 2 else n + 1 for n in items])
    assert group.submit(2) == 3
    with pytest.raises(ValueError, match=r"^7$"):
        group.submit(7)


def test_when_the_write_fails_everybody_hears_of_it_and_the_next_write_works() -> None:
    down = True

    def write(items: list[int]) -> list[int]:
        if down:
            raise ConnectionError("away")
        return items

    group: GroupCommit[int, int] = GroupCommit(write)
    with ThreadPoolExecutor(8) as pool:
        tried = [pool.submit(group.submit, n + 1) for n in range(8)]
        assert {type(one.exception(10)) for one in tried} == {ConnectionError}
        down = False
        assert [one.result(10) for one in [pool.submit(group.submit, n + 1) for n in range(8)]] == list(range(1, 9))


def test_many_threads_and_every_item_exactly_once() -> None:
    seen: list[int] = []
    writing = threading.Lock()

    def write(items: list[int]) -> list[int]:
        assert writing.acquire(blocking=False)  # one writer at a time
        seen.extend(items)
        writing.release()
        return [-item for item in items]

    group: GroupCommit[int, int] = GroupCommit(write)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(group.submit, range(1, 2001)))
    assert results == [-n for n in range(1, 2001)]
    assert sorted(seen) == list(range(1, 2001))
