"""Models of other packages: read, recognised, built in the IR, and held against what they were."""
