"""`python -m cad2pose` is `cad2pose`."""

import sys

from cad2pose.cli import main

if __name__ == "__main__":
    sys.exit(main())
