"""Tables of tiles: csv files with a column `id`, read as text and checked."""

import csv
import io
import re
from collections import Counter

import pandas as pd

from helpers.utils.files import DataError


def parse(content: bytes, where: str, column: str, remedy: str) -> pd.DataFrame:
    """Read a csv file with `id` and another column: DataFrame of str, `""` if empty.

    Raises:
        DataError: if it is no csv file, lacks a column or rows, if rows differ in
            length, or for ids that are repeated or not made of letters and digits.
    """
    try:
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        header, *rows = [row for row in csv.reader(lines, strict=True) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: unreadable ({error}): {remedy}") from error
    table, fault = pd.DataFrame(), ""
    if not {"id", column} <= {*header} or len({*header}) < len(header):
        fault = f"header {str(header)[:80]}, needs id and {column}"
    elif odd := [row for row in rows if len(row) != len(header)]:
        count = f"{len(odd[0])} fields, not {len(header)}"
        fault = f"row {odd[0][0]!r:.40} has {count} (is there a comma at its end?)"
    else:
        table = pd.DataFrame(rows, columns=header, dtype=str)
        counts = Counter(table["id"])
        if odd := [x for x in counts if not re.fullmatch("[0-9A-Za-z]{1,39}", x)]:
            fault = f"{odd[0]!r:.40} is no id of letters and digits (spreadsheet?)"
        elif repeated := [name for name, count in counts.items() if count > 1]:
            fault = f"id {repeated[0]} appears more than once"
        elif not counts:
            fault = "has no rows"
    if fault:
        raise DataError(f"{where}: {fault}: {remedy}")
    return table
