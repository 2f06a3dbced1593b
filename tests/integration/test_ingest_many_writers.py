"""Many associations at once write the same studies: exact counts, no deadlock, nothing lost, nothing double."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from elements import CT, EXPLICIT, ROOT, data_set

from pacs.ingest import Arrival, Ingest
from pacs.verify import verify
from storage.database import Database
from storage.objects.directory import DirectoryStore

_runs = itertools.count(1)


class Sending(NamedTuple):
    """One C-STORE: which instance, which of its versions, and whether the association is aborted before its end."""

    instance: int
    version: int
    aborted: bool

    def data(self, run: int) -> bytes:
        study = f"{run}.{self.instance % 3}"
        return data_set(n=f"{run}.{self.instance}", study=study, t00081030=b"LOversion %d" % self.version)


SENDINGS = st.lists(
    st.builds(Sending, st.integers(0, 7), st.sampled_from([0, 0, 0, 1, 2]), st.sampled_from([False] * 5 + [True])),
    min_size=10,
    max_size=60,
)


@pytest.fixture
def doors(database: Database, store: DirectoryStore) -> Iterator[list[Ingest]]:
    """Two ways in over one archive, as two receiver processes have them."""
    made = [
        Ingest(
            database,
            store,
            screen=lambda header: "" if int(header.sop_uid[-1]) % 2 else "even",
            arrival=lambda _header, at, _site: Arrival("routine", at + dt.timedelta(hours=4)),
        )
        for _ in range(2)
    ]
    yield made
    for ingest in made:
        ingest.close()


def _send(ingest: Ingest, sending: Sending, run: int) -> str:
    data = sending.data(run)
    with ingest.receive(
        sop_class=CT,
        sop_uid=f"{ROOT}.3.{run}.{sending.instance}",
        transfer_syntax=EXPLICIT,
        source_aet="CT1",
        source_address="10.0.0.7",
    ) as incoming:
        if sending.aborted:
            incoming.write([data[: len(data) // 2]])
            return "aborted"
        incoming.write([data[:100], data[100:]])
        return incoming.commit()


@given(SENDINGS)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # threads do not repeat themselves: shrinking would mislead
)
def test_any_mix_of_senders_leaves_exact_counts(
    doors: list[Ingest], database: Database, store: DirectoryStore, sendings: list[Sending]
) -> None:
    run = next(_runs)
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda n: _send(doors[n % 2], sendings[n], run), range(len(sendings))))
    answered = [(sending, outcome) for sending, outcome in zip(sendings, outcomes, strict=True) if not sending.aborted]
    with database.transaction() as connection:
        like = f"{ROOT}.%.{run}.%"
        served = dict(
            connection.execute("SELECT sop_uid, sha256 FROM instances WHERE sop_uid LIKE %s", (like,)).fetchall()
        )
        aside = connection.execute("SELECT sop_uid, sha256 FROM set_aside WHERE sop_uid LIKE %s", (like,)).fetchall()
        studies, worklist, series, jobs = (
            connection.execute(query, (like,)).fetchone()[0]  # type: ignore[index]
            for query in (
                "SELECT count(*) FROM studies WHERE study_uid LIKE %s",
                "SELECT count(*) FROM worklist WHERE study_uid LIKE %s",
                "SELECT count(*) FROM series WHERE series_uid LIKE %s",
                "SELECT count(*) FROM jobs JOIN instances ON instance_pk = instance_fk WHERE sop_uid LIKE %s",
            )
        )

    def digest(sending: Sending) -> bytes:
        return hashlib.sha256(sending.data(run)).digest()

    def uid(sending: Sending) -> str:
        return f"{ROOT}.3.{run}.{sending.instance}"

    instances = {sending.instance for sending, _ in answered}
    assert served.keys() == {uid(sending) for sending, _ in answered}
    stored = Counter(sending.instance for sending, outcome in answered if outcome == "stored")
    assert stored == dict.fromkeys(instances, 1)
    for sending, outcome in answered:
        same = served[uid(sending)] == digest(sending)
        assert outcome in ({"stored", "duplicate"} if same else {"conflict"})
    expected = {(uid(sending), digest(sending)) for sending, outcome in answered if outcome == "conflict"}
    assert len(aside) == len(expected)
    assert set(aside) == expected
    assert studies == worklist == series == len({instance % 3 for instance in instances})
    assert jobs == sum(1 for instance in instances if instance % 2)
    _objects_match_rows(database, store)


def _objects_match_rows(database: Database, store: DirectoryStore) -> None:
    report = verify(database, store, in_flight_s=0)
    assert (report.damaged, report.orphans) == ([], [])
    assert report.checked == len([*store.keys()])


def test_one_study_from_many_senders(doors: list[Ingest], database: Database) -> None:
    """This is what breaks others: duplicate keys and lost counts for a study that nobody has seen yet."""
    with ThreadPoolExecutor(16) as pool:
        sent = list(pool.map(lambda n: _send(doors[n % 2], Sending(n * 3, 0, aborted=False), 0), range(100)))
    assert sent == ["stored"] * 100
    with database.transaction() as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM patients), (SELECT count(*) FROM studies), (SELECT count(*) FROM series),"
            " (SELECT count(*) FROM instances), (SELECT count(*) FROM name_words)"
        ).fetchone()
    assert counts == (1, 1, 1, 100, 2)
