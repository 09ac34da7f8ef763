"""Requests and answers of the REST API as pydantic models: what OpenAPI says is what is checked."""
