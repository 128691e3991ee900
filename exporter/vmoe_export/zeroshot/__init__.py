"""Zero-shot classification: texts become the classifier of a CLIP, SigLIP or TIPSv2."""
