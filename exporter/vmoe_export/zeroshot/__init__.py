"""Zero-shot classification: texts become the classifier of a CLIP or SigLIP."""
