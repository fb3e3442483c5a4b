"""`python -m maelib` is the command `maelib`."""

from maelib.cli import main

if __name__ == "__main__":  # processes started by the command import this file again
    main()
