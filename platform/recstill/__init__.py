"""recstill: distil large recommendation, search and risk models into small, fast ones."""

__version__ = "0.1.0"
