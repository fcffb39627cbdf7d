"""What the plugins do, once their entry points have seen that they are wanted."""
