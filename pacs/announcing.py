"""DIMSE-N towards a destination: instance availability notification (PS3.4 R), and asking for commitment (PS3.4 J)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from pacs import committing
from pacs.calling import Call
from pacs.committing import PUSH_MODEL, PUSH_MODEL_INSTANCE, Report
from pacs.dimse import command as dimse
from pacs.dimse.normalized import ACTION_TYPE, N_ACTION_RQ, REQUESTED_SOP_CLASS, REQUESTED_SOP_INSTANCE

if TYPE_CHECKING:
    from pacs.tasks import ExchangeConfig
    from storage.commitment import Asked
    from storage.peers import Peer
    from storage.retrieval import Gone, StoredInstance

__all__ = ["AVAILABILITY", "Announcer", "ask_commitment", "notice"]

AVAILABILITY = "1.2.840.10008.5.1.4.33"  # Instance Availability Notification SOP Class
_N_CREATE_RQ = 0x0140
_REPORT_WAIT_S = 5.0  # a peer that can only answer on this association does so within it


def notice(
    study_uid: str,
    instances: Iterable[StoredInstance],
    gone: Iterable[Gone],
    retrieve_aet: str,
    retrieve_url: str = "",
) -> Dataset:
    """The attributes of a notification (PS3.4 table R.3.2-1): what of a study can be had, and what not any more.

    Args:
        study_uid: the study of all of them.
        instances: what is ONLINE.
        gone: what was deleted or rejected: UNAVAILABLE (PS3.3 C.4.23.1.1).
        retrieve_aet: the AE title for which that is said.
        retrieve_url: address of the DICOMweb service, '' where it is not told.
    """
    dataset = Dataset()
    dataset.StudyInstanceUID = study_uid
    dataset.ReferencedPerformedProcedureStepSequence = []
    series: dict[str, list[Dataset]] = {}
    for one in instances:
        item = _reference(one, "ONLINE", retrieve_aet)
        if retrieve_url:
            place = f"studies/{study_uid}/series/{one.series_uid}/instances/{one.sop_uid}"
            item.RetrieveURL = f"{retrieve_url.rstrip('/')}/{place}"
        series.setdefault(one.series_uid, []).append(item)
    for lost in gone:
        series.setdefault(lost.series_uid, []).append(_reference(lost, "UNAVAILABLE", retrieve_aet))
    dataset.ReferencedSeriesSequence = [_series(uid, items) for uid, items in series.items()]
    return dataset


def _series(series_uid: str, items: list[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = series_uid
    series.ReferencedSOPSequence = items
    return series


def _reference(one: StoredInstance | Gone, availability: str, retrieve_aet: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = one.sop_class
    item.ReferencedSOPInstanceUID = one.sop_uid
    item.InstanceAvailability = availability
    item.RetrieveAETitle = retrieve_aet
    return item


class Announcer(Call):
    """An association on which notifications are made. Raises as `Call`."""

    def __init__(self, peer: Peer, config: ExchangeConfig) -> None:
        super().__init__(peer, config, AVAILABILITY)

    def announce(self, notification: Dataset, sop_uid: str) -> None:
        """Make one notification under this SOP Instance UID; returns when the peer has taken it."""
        self.request(
            {
                dimse.AFFECTED_SOP_CLASS: AVAILABILITY.encode(),
                dimse.COMMAND_FIELD: _N_CREATE_RQ,
                dimse.AFFECTED_SOP_INSTANCE: sop_uid.encode(),
            },
            notification,
        )


def ask_commitment(peer: Peer, config: ExchangeConfig, transaction_uid: str, instances: list[Asked]) -> Report | None:
    """Ask the peer to commit itself to these; its report if it comes at once over the same association.

    Raises:
        PeerRefused: it does not take the request.
        PeerUnavailable: it is away, or broke off: whether it has the request is not known.
    """
    command: dict[int, int | bytes] = {
        REQUESTED_SOP_CLASS: PUSH_MODEL.encode(),
        dimse.COMMAND_FIELD: N_ACTION_RQ,
        REQUESTED_SOP_INSTANCE: PUSH_MODEL_INSTANCE.encode(),
        ACTION_TYPE: 1,
    }
    with Call(peer, config, PUSH_MODEL) as call:
        call.request(command, committing.request(transaction_uid, instances))
        event = call.event(_REPORT_WAIT_S)
    return committing.read_report(event) if event is not None else None
