"""How many ordinary files the attachments pipeline refuses wrongly: files of public packages.

`sources.toml` pins the packages, `judgements.toml` says which files may be refused, and why.
"""
