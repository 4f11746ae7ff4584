"""What tests are made of: tiny wheels, a tiny signed Debian mirror, whole workspaces."""
