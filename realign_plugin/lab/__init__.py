"""The lab: whole jobs made of the parts below it, which never import it."""
