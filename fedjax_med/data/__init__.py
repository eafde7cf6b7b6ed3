"""From image files or arrays to what each client holds."""
