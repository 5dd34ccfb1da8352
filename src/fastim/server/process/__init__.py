"""The process: its start and end, and what it may use of the machine."""
