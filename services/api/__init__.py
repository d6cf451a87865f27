"""The REST API: one file a resource, one file that shapes every error."""
