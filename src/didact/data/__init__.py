"""Data files of answers with feedback, from logs, public datasets and spreadsheets.

files        imports an export to JSON lines of `Example`; validates with row, column and cure
split        by problem or by user, near-duplicates on one side
inspection   lengths, authors, near-duplicates, personal data, prompt injection
"""
