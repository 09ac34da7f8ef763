"""The REST API (docs/rest.md): what the command line, jobs and the page use."""

from raypacs.web.rest.app import create_rest

__all__ = ["create_rest"]
