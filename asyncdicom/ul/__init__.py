"""PS3.8, the DICOM Upper Layer, without any input or output of its own."""
