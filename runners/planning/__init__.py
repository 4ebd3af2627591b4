"""What a step would take on devices that need not be there."""
