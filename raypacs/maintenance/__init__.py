"""What an operator does to an index whose node is down: move, back up, restore, rebuild."""
