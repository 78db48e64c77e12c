"""What starts work: jobs for people, sensors for files, and the local run behind `make demo`."""
