"""Data files of answers with feedback, from logs, public datasets and spreadsheets.

import    an export to JSON lines of `Example`
validate  all faults with row, column and cure
split     by problem or by user, near-duplicates on one side
inspect   lengths, authors, near-duplicates, personal data, prompt injection
"""

from didact.data.files import ImportReport, ValidationReport, import_files, read_examples, validate_file
from didact.data.inspection import Inspection, inspect_file
from didact.data.split import SplitReport, split_file

__all__ = [
    "ImportReport",
    "Inspection",
    "SplitReport",
    "ValidationReport",
    "import_files",
    "inspect_file",
    "read_examples",
    "split_file",
    "validate_file",
]
