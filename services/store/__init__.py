"""Postgres: tables, sessions, and the records the rest of the service reads and writes.

SQLAlchemy stays inside this package; what leaves it are frozen records.
"""
