"""Files, and the containers that several formats share. Knows no checkpoint."""
