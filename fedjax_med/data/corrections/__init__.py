"""Corrections of published labels, as tables: a user's own, and those of known data sets.

``isic9.csv``: for "Skin Cancer ISIC, 9 classes". *Official*: the diagnosis in the public tables of
ISIC 2019 (https://challenge.isic-archive.com/data/#2019); *inferred*: from the diagnosed images
beside it. ``scripts/derive_corrections.py`` derives the table, docs/isic9.md describes it.
"""
