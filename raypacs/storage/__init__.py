"""Where bytes lie: tiers, the one way in (intake) and packs."""
