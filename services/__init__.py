"""The service: pipeline, store, API and command line around the three models."""
