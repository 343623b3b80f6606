"""What a job found, as plain data with a version: `schema` is its JSON form, `gather` fills it."""
