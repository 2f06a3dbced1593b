"""From a query to stored objects; shared by C-GET, C-MOVE, WADO-RS, forwarding and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from storage.database import Database
from storage.retrieval import BATCH, Keys, StoredInstance, details, in_batches, kinds, primary_keys, stored_instances

__all__ = ["Keys", "Selection", "StoredInstance", "stored_instances"]


class Selection:
    """The instances that were asked for, as they stood at that moment; `len` of it is how many.

    Only primary keys are kept (8 bytes an instance). A database connection is used for each batch of rows and given
    back, so that a slow receiver holds none. Raises `DatabaseUnavailable` where the database is away.

    Args:
        database: where the index is.
        study_uid, series_uid, sop_uids, patient_id: one or several of each; at least one must be given (ValueError).
    """

    def __init__(
        self,
        database: Database,
        *,
        study_uid: Keys = None,
        series_uid: Keys = None,
        sop_uids: Keys = None,
        patient_id: Keys = None,
    ) -> None:
        self._database = database
        with database.autocommit() as connection:
            self._keys = primary_keys(
                connection, study_uid=study_uid, series_uid=series_uid, sop_uids=sop_uids, patient_id=patient_id
            )

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[StoredInstance]:
        """The instances by study, series number and instance number; those hidden meanwhile are missing."""
        return in_batches(self._keys, self._read, BATCH)

    def kinds(self) -> list[tuple[str, str]]:
        """The different pairs of SOP class and transfer syntax, the most frequent first."""
        with self._database.autocommit() as connection:
            return kinds(connection, self._keys)

    def _read(self, keys: Sequence[int]) -> list[StoredInstance]:
        with self._database.autocommit() as connection:
            return details(connection, keys)
