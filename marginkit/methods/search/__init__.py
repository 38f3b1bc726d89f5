"""What searches for adversarial inputs share."""
