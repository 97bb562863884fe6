"""Rules and delivery on a virtual clock, for tests of rules and for backtests."""
