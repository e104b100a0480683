"""Act: tools a model may call. `port` says what a tool is, `registry` which there are, `run` runs one."""
