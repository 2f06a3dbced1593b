"""HTTP: studies, findings and the worklist."""
