"""Catalogues: read as a stream of rows, queued, worked on by any number of workers."""
