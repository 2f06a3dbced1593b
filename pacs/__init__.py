"""The archive: what DICOM asks of it."""
