"""``python -m fastim`` is ``fastim``."""

from fastim.cli.main import main

if __name__ == "__main__":
    main()
