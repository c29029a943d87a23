"""``mtkd-cd bundle`` as a file of the repository."""

from mtkd_cd.cli.bundle import main
from mtkd_cd.cli.common import run_tool

if __name__ == '__main__':
    run_tool(main)
