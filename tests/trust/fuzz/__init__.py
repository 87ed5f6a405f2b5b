"""Decoders of what arrives, under inputs that machines make up.

decoders.py   each decoder as a function of bytes, with inputs to begin with
campaign.py   a process in which atheris, led by coverage, tries one of them
test_fuzz.py  hypothesis on all of them, and a bounded campaign for each

`tests/trust/corpus/DECODER/` keeps inputs that were worth something once; every run begins with them.
"""
