"""Recurrent recognition of spoken commands: train, transcribe, listen."""

__version__ = "0.1.0"
