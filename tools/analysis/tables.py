"""``mtkd-cd`` as a file of the repository: mtkd_cd/cli/tables.py."""

from mtkd_cd.cli.common import run_tool
from mtkd_cd.cli.tables import main

if __name__ == '__main__':
    run_tool(main)
