"""The `dnas` command: one file per sub-command."""


def entry() -> int:
    """What the installed command calls: the command line of the process, until somebody wants it to end."""
    from launch import interrupts

    interrupts.handle()
    from launch.main import main

    return main()
