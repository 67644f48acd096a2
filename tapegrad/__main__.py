"""Lets ``python -m tapegrad`` do what the command ``tapegrad`` does."""

import sys

from tapegrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
