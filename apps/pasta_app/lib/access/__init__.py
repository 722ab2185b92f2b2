"""Who may do what: roles, tokens, allow-list of routes, limits, audit log."""
