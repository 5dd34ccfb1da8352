"""The version, in the one place that the package, the wheel and the command line read it from."""

__version__ = "0.3.0"
