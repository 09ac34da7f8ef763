"""The web edge: DICOMweb (PS3.18), REST and a start page, over plain callables."""
