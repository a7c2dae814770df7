"""The report of a compression run: tables, sentences and a page, from what its folder records.

`python -m compress.report RUN_FOLDER` makes it again.
"""

from compress.report.tables import markdown as markdown
from compress.report.tables import widths_table as widths_table
from compress.report.words import verdict as verdict
