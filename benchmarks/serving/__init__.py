"""How a service over HTTP answers: under arrival traces, at saturation, and over a long mix of good and bad clients."""
