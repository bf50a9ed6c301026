"""Import models of other packages: read and recognise them, build them in the IR, and compare the results."""
