"""An application that cannot be imported."""

raise RuntimeError("a line\nand another")
