"""The `dnas` command: one file a sub-command."""


def entry() -> int:
    """What the installed command calls: interrupted while it still starts or already ends, it says so or nothing at all."""
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
