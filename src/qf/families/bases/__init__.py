"""Forms that several families share: what a family's own file is built on. No family itself."""
