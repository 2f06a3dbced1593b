"""Patients, studies, series and instances: what the index keeps, and how it is asked."""

from __future__ import annotations

from storage.indexing import Indexed, Indexer, index_instances
from storage.received import InstanceHeader, Outcome, Received

__all__ = ["Indexed", "Indexer", "InstanceHeader", "Outcome", "Received", "index_instances"]
