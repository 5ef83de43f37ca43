"""Distributions of a teacher on disk: captured once, read as often as anybody likes, and proved whole each time.

A store is a folder. ``store.json`` says what was asked of whom about which rows, ``shards/`` holds one Parquet file a
range of rows with the hash of its bytes beside it, and ``manifest.json`` is written when the last shard is there.
"""
