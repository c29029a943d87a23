"""``mtkd-cd`` as a file of the repository: mtkd_cd/cli/migrate.py."""

from mtkd_cd.cli.common import run_tool
from mtkd_cd.cli.migrate import main

if __name__ == '__main__':
    run_tool(main)
