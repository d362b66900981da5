"""`python -m fedpeft` is the `fedpeft` command."""

from fedpeft.cli import main

if __name__ == "__main__":
    main()
