"""Unified Procedure Steps (PS3.4 CC): the rules of workitems, who is told, and the workitems that we perform."""
