"""Synthetic tiles per second and core.

Usage: python tests/benchmarks/generator.py [--tiles 600] [--against PATH]

`--against` names a checkout of another version, which then makes as many tiles: the
ratio compares the two. Both run in processes of their own, which report the time of
the processor on all cores, so that it hardly matters what else the machine does.
"""

import argparse
import subprocess
import sys
from pathlib import Path

MEASURE = """
import sys, time
from helpers.synthetic import make_tiles
make_tiles(20)  # warms up
start = time.process_time()
make_tiles(int(sys.argv[1]))
print(time.process_time() - start)
"""


def rate(checkout, tiles):
    """Tiles per second of processor time with the helpers of a checkout."""
    command = [sys.executable, "-c", MEASURE, str(tiles)]
    done = subprocess.run(
        command, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True
    )
    return tiles / float(done.stdout)


def main():
    """Print the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiles", type=int, default=600)
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    arguments = parser.parse_args()
    here = rate(Path(__file__).parents[2], arguments.tiles)
    print(f"this version   {here:6.1f} tiles/s and core")
    if arguments.against:
        other = rate(arguments.against, arguments.tiles)
        print(f"other version  {other:6.1f} tiles/s and core   {here / other:.1f} x")


if __name__ == "__main__":
    main()
