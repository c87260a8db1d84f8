"""The `dnas` command: one file per sub-command."""


def entry() -> int:
    """Entry point of the installed command, quiet if it is interrupted while it starts or ends."""
    import signal
    import sys

    try:
        from launch.main import main

        code = main()
    except KeyboardInterrupt:
        print("dnas: interrupted", file=sys.stderr)
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code
