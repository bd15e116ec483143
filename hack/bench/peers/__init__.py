"""What others do on the same machine in the same run; see `workflows`."""
