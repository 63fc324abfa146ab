"""Questions of the papers that need rows of both models at once, so no link: asked of any pair of engines."""
