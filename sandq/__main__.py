"""`python -m sandq` is the command line."""

from sandq.cli.main import main

if __name__ == "__main__":
    main()
