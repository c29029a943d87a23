"""``python -m mtkd_cd COMMAND``."""

from mtkd_cd.cli.main import main

if __name__ == '__main__':
    main()
