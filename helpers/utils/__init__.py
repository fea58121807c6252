"""What is not about salt: files written whole, hardware, what a network costs."""
