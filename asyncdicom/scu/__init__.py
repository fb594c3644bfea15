"""The daily jobs of an SCU: `Client`, and what it shares with the tools."""
