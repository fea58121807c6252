"""Tables of tiles: csv files with a column `id`, read as text and checked."""

import csv
import io
from collections import Counter
from collections.abc import Iterable

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
    odd = next((row for row in rows if len(row) != len(header)), None)
    if not {"id", column} <= {*header} or len({*header}) < len(header):
        fault = f"header {str(header)[:80]}, needs id and {column}"
    elif odd:
        count = f"{len(odd)} fields, not {len(header)}"
        fault = f"row {odd[0]!r:.40} has {count} (is there a comma at its end?)"
    else:
        table = pd.DataFrame(rows, columns=header, dtype=str)
        fault = fault_in_ids(table["id"])
    if fault:
        raise DataError(f"{where}: {fault}: {remedy}")
    return table


def fault_in_ids(ids: Iterable[str]) -> str:
    """What is wrong with these ids, or `""`."""
    counts = Counter(ids)
    if not counts:
        return "has no rows"
    if odd := [x for x in counts if not (x.isascii() and x.isalnum() and len(x) < 40)]:
        return f"{odd[0]!r:.40} is no id of letters and digits (from a spreadsheet?)"
    if repeated := [name for name, count in counts.items() if count > 1]:
        return f"id {repeated[0]} appears more than once"
    return ""
