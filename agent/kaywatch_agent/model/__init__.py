"""Types that several stages share: one type per concept."""
