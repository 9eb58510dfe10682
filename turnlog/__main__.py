"""`python -m turnlog`: the command."""

from turnlog.adapters.cli.entry import main

if __name__ == "__main__":
    main()
