"""What a device can carry: memory and time models, dry steps, the largest configuration that fits."""
