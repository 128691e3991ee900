"""Zero-shot classification: build the head of a CLIP, SigLIP or TIPSv2 from texts."""
