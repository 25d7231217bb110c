"""facebookresearch/mae beside pf_keras: its own code, from a clone, under an interpreter with torch, timm and pillow."""
