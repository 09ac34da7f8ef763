"""raypacs: a Ray-based cluster that turns DICOM studies into a lossless wavelet web cache."""

__version__ = "0.1.0"
