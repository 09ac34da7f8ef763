"""The DICOM port: association acceptor and storage SCP (PS3.4 annex B)."""
