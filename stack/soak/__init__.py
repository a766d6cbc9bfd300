"""Everything at once on the local stack for an hour: traffic, disturbances, a count at the end."""
