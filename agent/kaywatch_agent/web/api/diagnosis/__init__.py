"""What is wrong now, since when, where, and what it cost: one sentence per problem."""
