"""Plug-ins for other libraries. Each is named by an entry point and does nothing where its library is not."""
