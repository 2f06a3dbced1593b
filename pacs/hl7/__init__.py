"""HL7 version 2 over MLLP: orders and patient updates in, acknowledgments out."""
