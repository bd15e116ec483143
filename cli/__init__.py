"""The command `seedbed`: where the parts are put together. Also `kubectl seedbed`."""
