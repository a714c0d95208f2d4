"""`python -m service` is `vultus`."""

from service.cli import main

if __name__ == "__main__":
    main()
