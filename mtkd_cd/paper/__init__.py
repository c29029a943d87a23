"""The paper's published figures."""
