"""`perdure` and `python -m perdure`."""

import sys


def main() -> None:
    """Run the command line, or a worker that one has started."""
    if sys.argv[1:2] == ["_worker"]:  # the parser of the verbs would take longer than all the rest
        from perdure.cli.worker import main as work

        sys.exit(work(sys.argv[2:]))
    from perdure.cli.app import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
