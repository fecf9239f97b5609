"""C{python -m castd}."""

from castd.cli.main import main

if __name__ == "__main__":
    main(prog_name="castd")
