"""The contenders: what each of them has to do, in its own words."""
