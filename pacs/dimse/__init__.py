"""The network side of the archive, one file for each service class."""
