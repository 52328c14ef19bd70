"""`perdure` and `python -m perdure`."""

import sys


def main() -> None:
    """Run the command line."""
    from perdure.cli.app import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
