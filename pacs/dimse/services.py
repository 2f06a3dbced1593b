"""Which service answers which request: a new service class is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from pacs.dimse.association import Association, Handler
from pacs.dimse.command import C_CANCEL_RQ, C_ECHO_RQ, C_FIND_RQ, C_GET_RQ, C_MOVE_RQ, C_STORE_RQ, Command
from pacs.dimse.commitment import commit, take_report
from pacs.dimse.contexts import MODALITY_WORKLIST, PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from pacs.dimse.echo import echo
from pacs.dimse.find import InformationModel, finder
from pacs.dimse.get import get
from pacs.dimse.move import move
from pacs.dimse.mpps import N_CREATE_RQ, N_SET_RQ, create, set_attributes
from pacs.dimse.normalized import N_ACTION_RQ, N_EVENT_REPORT_RQ
from pacs.dimse.query import patient_root, study_root
from pacs.dimse.store import store
from pacs.dimse.worklist import modality_worklist

__all__ = ["FIND", "SERVICES"]


def _ignore(association: Association, request: Command) -> None:
    """A C-CANCEL for an operation that has ended asks for no answer (PS3.7 9.3.2.3)."""


FIND: Mapping[str, InformationModel] = {  # what C-FIND asks, by SOP class; `contexts._SERVED` accepts it
    PATIENT_ROOT_FIND: patient_root,
    STUDY_ROOT_FIND: study_root,
    MODALITY_WORKLIST: modality_worklist,
}
SERVICES: Mapping[int, Handler] = {
    C_STORE_RQ: store,
    C_ECHO_RQ: echo,
    C_FIND_RQ: finder(FIND),
    C_GET_RQ: get,
    C_MOVE_RQ: move,
    C_CANCEL_RQ: _ignore,
    N_ACTION_RQ: commit,
    N_EVENT_REPORT_RQ: take_report,
    N_CREATE_RQ: create,
    N_SET_RQ: set_attributes,
}
