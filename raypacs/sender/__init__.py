"""The sending side: find DICOM files, upload them to a node, wait until they are prepared.

Used by the command line and by jobs; talks to a node through :mod:`raypacs.client` only.
"""
