"""One script per claim, beside its peers; none of it is needed to run the platform."""
