"""facebookresearch/mae beside pf_keras: its own code from a clone, by an interpreter with torch, timm and pillow."""
