"""Image files: found, decoded, kept prepared, read whole or one by one."""
