"""Archives: DICOMweb servers that are asked by name, DIMSE peers, rules that choose a series."""
